"""Exports a prompt model as an ordinary bundle: a classifier of (input_ids, token_type_ids), as every server needs.

What the prompt adds is constant once trained. So the encoded soft tokens become rows of the word embeddings, and
template.json tells the tokenizer which ids to put before and after the text.
"""

import copy
import json
import os

import numpy as np

from text_cls.files import atomic_write, write_json
from text_cls.neural.checkpoint import Checkpoint
from text_cls.neural.export import bundle_folder, compare, example_texts, texts_to_compare
from text_cls.neural.onnx_graph import to_fp16

GRAPH = "model"  # the file name in PaddleNLP's application


def make_classifier(task):
    """A layer that maps ids [rows, tokens] made by `task.serving` to logits [rows, labels]."""
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
            # Servers give all tokens type 0, so that type takes the embedding of the text's.
            types.set_value(paddle.concat([types[layout.text_type : layout.text_type + 1], types[1:]]))

        def forward(self, input_ids, token_type_ids=None, attention_mask=None):
            states = self.encoder(input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)[0]
            mask = (input_ids == layout.mask_id).astype(states.dtype).unsqueeze(1)
            return self.head(paddle.matmul(mask, states)).squeeze(1)  # a product selects it in any batch, and in ONNX

    with paddle.no_grad():
        classifier = PromptClassifier()
    classifier.eval()
    return classifier


def _own_embeddings(task):
    """Word embeddings of the ids that the prompt adds to the vocabulary, soft tokens encoded: [own ids, width]."""
    import paddle

    template, layout = task.model.template, task.layout
    inputs = layout.prompt_inputs(layout.ids[None])
    tensors = template.process_batch({name: paddle.to_tensor(value) for name, value in inputs.items()})
    states = tensors.get("inputs_embeds")
    if states is None:  # no soft tokens
        states = task.model.plm.get_input_embeddings()(tensors["input_ids"])
    return states[0][paddle.to_tensor(np.flatnonzero(layout.ids >= layout.vocab_size))]


def write_prompt_files(folder, prompt):
    """Writes template_config.json and verbalizer_config.json as PaddleNLP does. prompt: `Prompt`."""
    with atomic_write(os.path.join(folder, "template_config.json")) as file:
        kind = "SoftTemplate" if any({"soft", "soft_id"} & set(part) for part in prompt.parts) else "ManualTemplate"
        for line in (prompt.parts, {"class": kind}):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    write_json(os.path.join(folder, "verbalizer_config.json"), dict(zip(prompt.labels.names, prompt.words)))


def export(path, task, decision, max_seq_length, export_type, run):
    """Writes the bundle and checks that its tokens and logits are the prompt model's.

    Args:
        path: folder of the bundle. task: `PromptTask` on a CPU. decision: `Decision`. export_type: paddle, or onnx for
            a bundle without the static graph. run: contents of the trained model's `run.json`, for the model card.
    Returns:
        the largest difference of a logit.
    """
    from text_cls.serving.predictor import Predictor

    classifier = make_classifier(task)
    whole = Checkpoint(classifier, task.tokenizer, task.prompt.labels, decision, run)
    with bundle_folder(path, whole, GRAPH, max_seq_length, vocab_size=task.layout.num_ids) as draft:
        write_json(os.path.join(draft.folder, "template.json"), task.layout.template(task.truncate_mode))
        write_prompt_files(draft.folder, task.prompt)
        if export_type == "onnx":
            for name in os.listdir(draft.folder):
                if name.startswith((f"{GRAPH}.pdmodel", f"{GRAPH}.pdiparams")):
                    os.remove(os.path.join(draft.folder, name))
            draft.fields["static_graph"] = None
        to_fp16(draft.file("float32"), draft.file("fp16"))
        draft.fields["unmeasured"] = ["fp16"]  # there may be no GPU to measure it on
        draft.seal()
        return check(task, Predictor(draft.folder), example_texts(), max_seq_length)


def check(task, predictor, texts, max_seq_length):
    """Compares a bundle with the prompt model on rows of all lengths made of `texts`, tokenised by PaddleNLP.

    Returns:
        the largest difference of a logit.
    Raises:
        UserError: that difference exceeds 1e-4, or the tokens differ.
    """
    texts = [*texts_to_compare(texts, max_seq_length), f"[MASK]一{task.tokenizer.mask_token}二"]
    wanted = task.pack([_tokens(task, text, max_seq_length) for text in texts])
    return compare(wanted, task.logits(wanted, 32), predictor, texts, max_seq_length)


def _tokens(task, text, max_seq_length):
    tokenizer, layout = task.tokenizer, task.layout
    ids = np.array(tokenizer.encode(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    room = max_seq_length - len(layout.ids)
    ids = ids[:room] if task.truncate_mode == "tail" else ids[max(0, len(ids) - room) :]
    return np.insert(layout.ids, layout.place, np.where(ids == tokenizer.mask_token_id, tokenizer.unk_token_id, ids))
