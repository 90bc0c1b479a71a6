"""The commands of a model card, for each kind of checkpoint and of bundle. FOLDER stands for the artefact's folder."""

from text_cls.linear_classifier import LINEAR

_SERVER = "python deploy/simple_serving/server.py --bundle {bundle} --port 8189"
_TRITON = "python deploy/triton_serving/build_repository.py --bundle {bundle} --output models"
_FILES = "texts.txt --output_file out.txt"
_PREDICT = "python predict.py --device cpu --params_path FOLDER --dataset_dir . --data_file "
_PREDICT_RETRIEVAL = "python retrieval_based/predict.py --device cpu --params_path FOLDER --data_file "
_CHECKPOINT = {
    "classification": (
        _PREDICT + _FILES,
        "python export_model.py --params_path FOLDER --output_path export{flags}",
        _SERVER.format(bundle="export"),
        _TRITON.format(bundle="export"),
    ),
    "retrieval": (
        _PREDICT_RETRIEVAL + _FILES,
        "python retrieval_based/export_model.py --params_path FOLDER --output_path output",
        _SERVER.format(bundle="output"),
    ),
    "prompt": (
        "python few-shot/train.py --device cpu --output_dir FOLDER --do_export",
        "python few-shot/infer.py --device cpu --model_path_prefix FOLDER/export --input_file " + _FILES,
        _SERVER.format(bundle="FOLDER/export"),
        _TRITON.format(bundle="FOLDER/export"),
    ),
}
_BUNDLE = {
    "classification": (
        "python deploy/predictor/infer.py --device cpu --model_path_prefix FOLDER --input_file " + _FILES,
        _SERVER.format(bundle="FOLDER"),
        _TRITON.format(bundle="FOLDER"),
    ),
    "retrieval": (
        "python deploy/predictor/infer.py --device cpu --model_path_prefix FOLDER --input_file " + _FILES,
        'python retrieval_based/index.py add --bundle FOLDER --label "A NEW LABEL" --text "A TEXT THAT HAS IT"',
        _SERVER.format(bundle="FOLDER"),
    ),
}
_FORM = """`FOLDER` is this folder; run the commands in the checkout of the project that wrote it. {needs} `texts.txt`
has one text per line. `server.py` serves HTTP and has a web page, http://127.0.0.1:8189/. {triton}

```shell
{commands}
```"""


def checkpoint_usage(kind: str, model_type: str | None) -> str:
    """How to use a checkpoint. model_type: of its config.json."""
    commands = "\n".join(_CHECKPOINT[kind]).format(flags=" --multilingual" if model_type == "ernie_m" else "")
    needs = "Prediction and export need Paddle (`make setup`), serving does not."
    return _usage("They need no Paddle." if model_type == LINEAR else needs, commands)


def bundle_usage(kind: str) -> str:
    """How to use a bundle."""
    needs = "They need no Paddle: `pip install -r deploy/simple_serving/requirements-cpu.txt`."
    return _usage(needs, "\n".join(_BUNDLE[kind]))


def _usage(needs, commands):
    triton = "" if "triton" not in commands else "The last command makes a model repository for NVIDIA Triton."
    return _FORM.format(needs=needs, commands=commands, triton=triton).replace(" \n", "\n")
