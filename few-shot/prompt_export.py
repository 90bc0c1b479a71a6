"""From a prompt model to an ordinary bundle: a classifier of (input_ids, token_type_ids), as every server takes it.

What the prompt adds is constant once trained. So soft tokens, past their encoder, become rows of the word embeddings,
and template.json tells a tokenizer which ids stand before and after the text.
"""

import copy
import json
import os

import numpy as np

from text_cls.files import write_json
from text_cls.neural.checkpoint import Checkpoint
from text_cls.neural.export import bundle_folder, compare, example_texts, texts_to_compare
from text_cls.neural.onnx_graph import to_fp16

GRAPH = "model"  # as the older suite names it


def make_classifier(task):
    """A layer that gives the logits [rows, labels] of ids [rows, tokens] as `task.serving` makes them."""
    import paddle

    prompt, layout = task.model, task.layout

    class PromptClassifier(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.config = prompt.plm.config
            self.encoder = copy.deepcopy(getattr(prompt.plm, prompt.plm.base_model_prefix))
            self.head = copy.deepcopy(prompt.verbalizer.head)
            embeddings = self.encoder.embeddings
            words, types = embeddings.word_embeddings.weight, embeddings.token_type_embeddings.weight
            shift = types[paddle.to_tensor(layout.own["token_type_ids"])] - types[layout.text_type]
            rows = paddle.concat([words, _own_embeddings(task) + shift])
            pad = task.tokenizer.pad_token_id
            embeddings.word_embeddings = paddle.nn.Embedding(*rows.shape, padding_idx=pad)
            embeddings.word_embeddings.weight.set_value(rows)
            # Servers give type 0 to all tokens; here it is the text's.
            types.set_value(paddle.concat([types[layout.text_type : layout.text_type + 1], types[1:]]))

        def forward(self, input_ids, token_type_ids=None, attention_mask=None):
            states = self.encoder(input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)[0]
            mask = (input_ids == layout.mask_id).astype(states.dtype).unsqueeze(1)
            return self.head(paddle.matmul(mask, states)).squeeze(1)  # a product picks it in any batch, and in ONNX

    with paddle.no_grad():
        classifier = PromptClassifier()
    classifier.eval()
    return classifier


def _own_embeddings(task):
    """Word embeddings of the ids from the vocabulary's size on, soft tokens past their encoder: [own, width]."""
    import paddle

    template, layout = task.model.template, task.layout
    inputs = layout.prompt_inputs(layout.ids[None])
    tensors = template.process_batch({name: paddle.to_tensor(value) for name, value in inputs.items()})
    states = tensors.get("inputs_embeds")
    if states is None:  # no soft tokens
        states = task.model.plm.get_input_embeddings()(tensors["input_ids"])
    return states[0][paddle.to_tensor(np.flatnonzero(layout.ids >= layout.vocab_size))]


def write_prompt_files(folder, work):
    """template_config.json and verbalizer_config.json, as PaddleNLP writes them. work: `Work` of train.py."""
    with open(os.path.join(folder, "template_config.json"), "w", encoding="utf-8") as file:
        kind = "SoftTemplate" if any({"soft", "soft_id"} & set(part) for part in work.parts) else "ManualTemplate"
        for line in (work.parts, {"class": kind}):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    write_json(os.path.join(folder, "verbalizer_config.json"), dict(zip(work.labels.names, work.words)))


def export(path, task, work, decision, args):
    """Writes the bundle, which must give the tokens and logits of the prompt model. Returns the largest difference."""
    from text_cls.serving.predictor import Predictor

    classifier = make_classifier(task)
    whole = Checkpoint(classifier, task.tokenizer, work.labels, decision, {})
    with bundle_folder(path, whole, GRAPH, args.max_seq_length) as draft:
        write_json(os.path.join(draft.folder, "template.json"), task.layout.template(args.truncate_mode))
        write_prompt_files(draft.folder, work)
        if args.export_type == "onnx":
            for name in os.listdir(draft.folder):
                if name.startswith((f"{GRAPH}.pdmodel", f"{GRAPH}.pdiparams")):
                    os.remove(os.path.join(draft.folder, name))
            draft.fields["static_graph"] = None
        to_fp16(draft.file("float32"), draft.file("fp16"))
        draft.fields["unmeasured"] = ["fp16"]  # as there may be no GPU here
        draft.seal()
        return check(task, Predictor(draft.folder), example_texts(), args.max_seq_length, args.truncate_mode)


def check(task, predictor, texts, max_seq_length, truncate_mode):
    """Compares a bundle with the prompt model, on texts that become shorter and longer rows, tokenised by PaddleNLP.

    Returns:
        the largest difference of a logit.
    Raises:
        UserError: it is more than 1e-4, or the tokens differ.
    """
    texts = [*texts_to_compare(texts, max_seq_length), f"[MASK]一{task.tokenizer.mask_token}二"]
    wanted = task.pack([_tokens(task, text, max_seq_length, truncate_mode) for text in texts])
    return compare(wanted, task.logits(wanted, 32), predictor, texts, max_seq_length)


def _tokens(task, text, max_seq_length, truncate_mode):
    tokenizer, layout = task.tokenizer, task.layout
    ids = np.array(tokenizer.encode(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    room = max_seq_length - len(layout.ids)
    ids = ids[:room] if truncate_mode == "tail" else ids[max(0, len(ids) - room) :]
    return np.insert(layout.ids, layout.place, np.where(ids == tokenizer.mask_token_id, tokenizer.unk_token_id, ids))
