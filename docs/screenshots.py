"""Make a picture of every page: both languages, light and dark, on a phone and on a desktop; to look at them.

    make quickstart
    python docs/screenshots.py              # into quickstart/screenshots

The pages are those of the quickstart model and the example data. Needs what make_images.py needs.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from make_images import LANGUAGES, ask, check_setting, chromium, parse_args, run, server, set_size, speak

from text_cls.cli import command

WIDTHS, THEMES = (1280, 390), ("light", "dark")
HIGHEST = 3000  # pixels of a picture


def make_pages(params_path, dataset, folder):
    """{name: path} of each report page. dataset: a copy, since scripts write into it."""
    pages = {}

    def page(name):
        pages[name] = folder / f"{name}.html"
        return str(pages[name])

    data = ("--dataset_dir", str(dataset))
    model = (*data, "--device", "cpu", "--params_path", params_path)
    run("analysis/evaluate.py", *model, "--html", page("evaluate"))
    run("analysis/word_interpret.py", *model, "--max_rows", "3", "--output_html", page("word_interpret"))
    run("analysis/sent_interpret.py", *model, "--html", page("sent_interpret"))
    run("analysis/threshold.py", *model, "--dry_run", "--html", page("threshold"))
    run("analysis/sparse.py", *model, "--annotate", "--support_threshold", "0.3", "--html", page("sparse"))
    run("analysis/dirty.py", *data, "--device", "cpu", "--html", page("dirty"))
    run("analysis/drift.py", *model, "--data_file", str(dataset / "data.txt"), "--html", page("drift"))
    run("analysis/check_data.py", *data, "--output_dir", str(folder))
    (folder / "report.html").rename(page("check_data"))
    tiny, search = str(folder / "tiny"), folder / "search"
    run("data/make_tiny_model.py", "--output_dir", tiny, "--hidden_size", "32", "--num_attention_heads", "2")
    quick = ("--device", "cpu", "--model_name", tiny, "--epochs", "1", "--max_seq_length", "32")
    space = ("--space", "learning_rate=1e-4..1e-2", "batch_size=16,32")
    run("analysis/search.py", *data, *quick, "--output_dir", str(search), "--trials", "4", "--seeds", "2", *space)
    (search / "search.html").rename(page("search"))
    return pages


def picture(driver, name, width, theme, folder):
    for ending, language in LANGUAGES.items():
        speak(driver, language)
        height = driver.execute_script("return document.documentElement.scrollHeight")
        set_size(driver, width, min(HIGHEST, height))
        driver.save_screenshot(str(Path(folder, f"{name}-{width}-{theme}{ending}.png")))
        set_size(driver, width, 900)


@command
def main(argv=None):
    args = parse_args(argv, __doc__, "quickstart/screenshots")
    check_setting(args.params_path)
    os.makedirs(args.output_dir, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        dataset = shutil.copytree(
            args.dataset_dir, folder / "data", ignore=shutil.ignore_patterns("e5-zh", "tiny-ernie")
        )
        pages = make_pages(args.params_path, dataset, folder)
        run("export_model.py", "--params_path", args.params_path, "--output_path", str(folder / "export"))
        with server(str(folder / "export")) as address:
            for width in WIDTHS:
                for theme in THEMES:
                    with chromium(width, theme) as driver:
                        for name, path in pages.items():
                            driver.get(path.as_uri())
                            picture(driver, name, width, theme, args.output_dir)
                        driver.get(address)
                        ask(driver)
                        picture(driver, "server", width, theme, args.output_dir)
    print(f"{len(os.listdir(args.output_dir))} pictures in {args.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
