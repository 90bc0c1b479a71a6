"""Find the entries of the corpus nearest to each text of a file. evaluate.py scores the result.

    python recall.py --params_path checkpoint --similar_text_pair_file data/dev.txt --recall_num 50
    python recall.py --params_path checkpoint --similar_text_pair_file data/dev.txt --corpus_file data/train.txt
    python recall.py --params_path output --similar_text_pair_file data/dev.txt       # a bundle and its index

A line is `text<TAB>label<TAB>cosine`, or `text<TAB>label,label<TAB>cosine` if the corpus is labelled rows. Texts keep
their order and their repetitions; the nearest entry of a text comes first.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from searching import Search, add_search_flags, open_search
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, command, logger, whole_number
from text_cls.files import atomic_write
from text_cls.prediction import count_texts
from text_cls.rows import format_row, read_texts
from utils import keep_inputs


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--similar_text_pair_file",
        "--similar_text_pair",
        required=True,
        help="texts to look up, one per line; labels after a tab are ignored (required)",
    )
    parser.add_argument("--recall_result_dir", default="recall_result", help="folder of the result (%(default)s)")
    parser.add_argument(
        "--recall_result_file", default="recall_result_file", help="file name of the result in its folder (%(default)s)"
    )
    add_search_flags(parser, vote=False)
    unused = parser.add_argument_group("flags of PaddleNLP's application, accepted and ignored")
    unused.add_argument("--model_name_or_path", help="ignored: --params_path names the model (none)")
    unused.add_argument("--output_emb_size", type=whole_number, help="ignored: the width is the model's (none)")
    for name in ("hnsw_m", "hnsw_ef", "hnsw_max_elements"):
        unused.add_argument(f"--{name}", type=whole_number, help="ignored: the index has its own settings (none)")
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    problems, source = Problems(), args.similar_text_pair_file
    encoder, corpus = open_search(args, problems)
    count = count_texts(source, problems, corpus.labels, skip_blank=True)
    result = os.path.join(args.recall_result_dir, args.recall_result_file)
    inputs = [os.path.abspath(path) for path in (source, args.corpus_file) if path]
    keep_inputs(args.recall_result_dir, inputs, {"--recall_result_file": args.recall_result_file}, problems)
    problems.stop_if_any()

    search = Search(args, encoder, corpus)
    lines = 0
    with atomic_write(result) as file:
        texts = (text for _, text in read_texts(source))
        for window, found in search.windows(texts, count):
            for text, cosines, entries in zip(window, found.cosines, found.labels):
                for cosine, names in zip(cosines, entries):
                    if names:  # an approximate search may leave the last positions empty
                        file.write(format_row(text, ",".join(names), f"{cosine:.8f}"))
                        lines += 1
    logger.info("Recall result saved in %s: %d nearest entries of %d texts", result, lines, count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
