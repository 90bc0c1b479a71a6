import hashlib
import http.server
import json
import math
import random
import socket
import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import augmentation
from augmentation import FILES, NEGATIONS, STRATEGIES, Augmenter, split_words
from text_cls.cli import UserError

WORDS = {"房间": ["屋子", "客房"], "早餐": ["早饭"], "room": ["chamber"], "clean": ["tidy", "spotless"]}
TEXTS = st.text("房间早餐服务很干净不没错，。😀 ab\u3000\n'-1", max_size=60) | st.lists(
    st.sampled_from([*WORDS, "不", "没有", "not", "isn't", "服务", "热情", "the", "，", " ", "😀", "1000"]), max_size=30
).map("".join)


@pytest.fixture(scope="module")
def words_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "words.json"
    path.write_text(json.dumps(WORDS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def own(words_file):
    """{strategy: Augmenter with the user's dictionary, three texts wanted}."""
    settings = {"aug_type": "custom", "create_n": 3, "aug_percent": 0.3, "custom_file": words_file}
    return {strategy: Augmenter(strategy, **settings) for strategy in STRATEGIES}


@settings(deadline=None)
@given(TEXTS)
def test_words_tile_the_text(text):
    pieces = split_words(text)
    assert "".join(pieces) == text and all(pieces)


def test_words_of_both_scripts():
    text = "IBM将裁员1000人。 It wasn't (well) done."
    words = ["IBM", "将", "裁员", "1000", "人", "。", " ", "It", " ", "wasn't", " ", "(", "well", ")", " ", "done", "."]
    assert split_words(text) == words


def tight(text):
    return "".join(text.split())


def is_subsequence(short, long):
    rest = iter(long)
    return all(c in rest for c in short)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, strategy=st.sampled_from(STRATEGIES))
def test_properties_of_all_new_texts(own, text, strategy):
    found = own[strategy].augment(text)
    assert len(found) <= 3 and len(set(found)) == len(found)
    for new in found:
        assert new.strip() == new and new and new != text
        if strategy == "delete":
            assert is_subsequence(tight(new), tight(text)) and len(tight(new)) < len(tight(text))
        if strategy == "swap":
            assert Counter(tight(new)) == Counter(tight(text))
        if strategy == "insert":
            assert is_subsequence(tight(text), tight(new))
    assert own[strategy].augment(text) == found


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_negations_keep_their_place(own, text):
    for strategy in ("delete", "swap"):
        for new in own[strategy].augment(text):
            for piece in NEGATIONS:
                if not piece.isascii():
                    assert new.count(piece) == text.count(piece)


def test_how_many_words_change(words_file):
    text = " ".join(f"word{i}" for i in range(30))
    for percent, count in ((0.1, 3), (0.01, 1), (1, 29)):
        (new,) = Augmenter("delete", aug_percent=percent).augment(text)
        assert len(new.split()) == 30 - count
    text = "room " * 50
    (new,) = Augmenter("substitute", "custom", aug_percent=0.2, custom_file=words_file).augment(text)
    assert new.split().count("chamber") == 10


@settings(deadline=None)
@given(st.integers(2, 60), st.floats(0.001, 1), st.integers(0, 9))
def test_how_many_words_swap(count, percent, seed):
    """Whole pairs of neighbours: at least one, and no more than the share allows."""
    words = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(count)]
    for new in Augmenter("swap", create_n=3, aug_percent=percent, seed=seed).augment(" ".join(words)):
        assert Counter(new.split()) == Counter(words)
        changed = sum(old != word for old, word in zip(words, new.split()))
        assert changed % 2 == 0 and 2 <= changed <= max(2, math.ceil(percent * count))


@pytest.mark.parametrize(("percent", "changed"), [(0.01, 2), (0.1, 4), (0.12, 4), (0.15, 6), (0.2, 8)])
def test_the_share_of_words_that_swap(percent, changed):
    words = [f"word{i}" for i in range(40)]
    (new,) = Augmenter("swap", aug_percent=percent).augment(" ".join(words))
    assert sum(old != word for old, word in zip(words, new.split(), strict=True)) == changed


@pytest.mark.parametrize(
    ("strategy", "text", "expected"),
    [
        ("substitute", "a clean room", {"a tidy chamber", "a spotless chamber"}),
        ("insert", "我的房间", {"我的房间屋子", "我的房间客房", "我的屋子房间", "我的客房房间"}),
        ("insert", "a room", {"a room chamber", "a chamber room"}),
        ("delete", "it isn't bad", {"isn't bad", "it isn't"}),
        ("swap", "good old room, no.", {"old good room, no.", "good room old, no."}),
    ],
)
def test_every_possible_text(words_file, strategy, text, expected):
    augmenter = Augmenter(strategy, "custom", create_n=50, aug_percent=0.5, custom_file=words_file)
    if strategy in ("delete", "swap", "insert"):
        augmenter = Augmenter(strategy, "custom", create_n=50, aug_percent=0.01, custom_file=words_file)
    assert set(augmenter.augment(text)) == expected


def test_nothing_to_change(own):
    for text in ("", "😀", "好", "不", "不好", "！！", "123"):
        for strategy in STRATEGIES:
            assert own[strategy].augment(text) == [], (text, strategy)


def test_a_word_that_jieba_would_split(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"灵犀手环九号": ["这款手环"]}), encoding="utf-8-sig")
    assert Augmenter("substitute", "custom", custom_file=path).augment("新买的灵犀手环九号") == ["新买的这款手环"]


def test_new_texts_depend_on_the_seed_and_not_on_the_text_before():
    text = "房间很干净，早餐不错，服务热情，位置方便，还会再来"
    one, other, same = (Augmenter("delete", create_n=3, seed=seed) for seed in (1, 2, 1))
    same.augment("别的一句话")
    assert one.augment(text) == same.augment(text) != other.augment(text)


def test_mix_uses_all_four_strategies(own):
    text = "房间很干净，早餐不错，服务热情"
    kinds = set()
    for i in range(40):
        for new in own["mix"].augment(f"{text}{i}"):
            same, shorter = Counter(tight(new)) == Counter(f"{text}{i}"), is_subsequence(new, f"{text}{i}")
            inserted = is_subsequence(f"{text}{i}", new)
            kinds.add("swap" if same else "delete" if shorter else "insert" if inserted else "substitute")
    assert kinds == {"swap", "delete", "insert", "substitute"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "expected JSON of the form"),
        ("[]", "expected JSON of the form"),
        ("{}", "expected JSON of the form"),
        ('{"房间": "屋子"}', "word '房间': expected JSON"),
        ('{"房间": []}', "word '房间': expected JSON"),
        ('{"房间": [1]}', "word '房间': expected JSON"),
        ('{"New York": ["NYC"]}', "word 'New York': a word must not contain spaces"),
        ('{"房间": ["屋\\t子"]}', "nor its replacement tabs or line breaks"),
    ],
)
def test_faults_of_the_dictionary(tmp_path, content, message):
    path = tmp_path / "words.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"--custom_file {path}.*{message}"):
        Augmenter("insert", "custom", custom_file=path)
    with pytest.raises(UserError, match="needs --custom_file"):
        Augmenter("insert", "custom")


# --------------------------------------------------------------------------------------------------- PaddleNLP's files

KNOWN = ["[UNK]", "房间", "干净", "早餐", "不错", "服务", "热情"]
CONTENTS = {
    "stop_words": "的\n了\n",
    "vocab": json.dumps({"token_to_idx": {word: i for i, word in enumerate(KNOWN)}, "unk_token": "[UNK]"}),
    "word_synonym": json.dumps({"房间": ["屋子", "客房"], "早餐": ["早饭"]}),
    "word_homonym": json.dumps({"房间": ["防监"], "服务": ["服物"]}),
}
NO_MODEL = "/no/such/folder"
TEXT = "房间干净早餐不错服务热情"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder where PaddleNLP keeps dictionaries, empty."""
    import paddlenlp.utils.env

    monkeypatch.setattr(paddlenlp.utils.env, "DATA_HOME", str(tmp_path / "datasets"))
    return tmp_path / "datasets" / "WordSubstitute"


@pytest.fixture
def source(monkeypatch):
    """A web server with small files instead of PaddleNLP's. `served`: names requested; `broken`: how it fails."""
    names = {url.rpartition("/")[2]: name for name, (_, url) in FILES.items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        served, broken = [], {}

        def do_GET(self):
            name = names[self.path.rpartition("/")[2]]
            self.served.append(name)
            fault = self.broken.get(name)
            if fault == "silent":
                time.sleep(1)
                return
            body = b"<html>login</html>" if fault == "login" else CONTENTS[name].encode("utf-8")
            self.send_response(404 if fault == "gone" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}/paddlenlp/data"
    for name, (_, url) in FILES.items():
        digest = hashlib.md5(CONTENTS[name].encode("utf-8")).hexdigest()
        monkeypatch.setitem(augmentation.FILES, name, (digest, url.replace(augmentation.URL, base)))
    yield Handler
    server.shutdown()
    server.server_close()


def test_the_table_is_dataaugs():
    from paddlenlp.dataaug import WordSubstitute

    class Enough(Exception):
        pass

    class Table(WordSubstitute):
        def _load_file(self, mode):
            raise Enough

    table = Table.__new__(Table)
    with pytest.raises(Enough):
        table.__init__("synonym")
    for name, (digest, url) in FILES.items():
        assert table._DATA[name] == (url.rpartition("/")[2], digest, url)


@pytest.mark.parametrize("aug_type", ["synonym", "homonym"])
@pytest.mark.parametrize("strategy", ["substitute", "insert", "mix"])
def test_files_are_downloaded_once(home, source, strategy, aug_type):
    state = random.getstate()
    found = Augmenter(strategy, aug_type, create_n=3, seed=5).augment(TEXT)
    assert found and all(new != TEXT for new in found)
    if strategy != "mix":
        others = [other for words in json.loads(CONTENTS[f"word_{aug_type}"]).values() for other in words]
        assert all(any(other in new for other in others) for new in found)
    assert source.served == ["stop_words", "vocab", f"word_{aug_type}"]
    assert Augmenter(strategy, aug_type, create_n=3, seed=5).augment(TEXT) == found
    assert len(source.served) == 3 and len(list(home.iterdir())) == 3
    assert random.getstate() == state


def failure(*arguments, **settings):
    started = time.perf_counter()
    with pytest.raises(UserError) as caught:
        Augmenter(*arguments, **settings)
    assert time.perf_counter() - started < 30
    return str(caught.value)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("gone", "404"), ("login", "a different file from"), ("cut", "a different file"), ("silent", "time")],
)
def test_an_unavailable_file(home, source, monkeypatch, fault, reason):
    monkeypatch.setattr(augmentation, "TIMEOUT", 0.3)
    source.broken["vocab"] = fault
    message = failure("substitute")
    assert reason in message and "\n" in message
    wanted = [line for line in message.splitlines() if " as " in line]
    for name, line in zip(("vocab", "word_synonym"), wanted, strict=True):
        url = FILES[name][1]
        assert line.strip() == f"{url} as {home / url.rpartition('/')[2]}"
    assert "--aug_strategy delete or swap; aug.py also takes your own words: --aug_type custom" in message
    assert [path.name for path in home.iterdir()] == ["stopwords.txt"]
    source.broken.clear()
    assert Augmenter("substitute").augment(TEXT)
    assert source.served.count("stop_words") == 1


def test_no_network(home, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for name, (digest, url) in FILES.items():
            base = f"http://127.0.0.1:{unused.getsockname()[1]}"
            monkeypatch.setitem(augmentation.FILES, name, (digest, url.replace(augmentation.URL, base)))
        message = failure("insert", "homonym")
    assert "Connection refused" in message and message.count(str(home)) == 3
    for name in ("stopwords.txt", "baidu_encyclopedia_w2v_vocab.json", "word_homonym.json"):
        assert f"as {home / name}" in message


def place(home, **other):
    home.mkdir(parents=True)
    for name, (_, url) in FILES.items():
        (home / url.rpartition("/")[2]).write_text(other.get(name, CONTENTS[name]), encoding="utf-8")


def test_files_put_there_by_hand_are_used(home, capfd):
    """Their MD5 is not PaddleNLP's, whose own code would fetch them again."""
    from text_cls.cli import set_up_log

    place(home, word_synonym=json.dumps({"热情": ["周到"]}))
    set_up_log()
    assert Augmenter("substitute").augment(TEXT) == [TEXT.replace("热情", "周到")]
    assert f"Using files that differ from PaddleNLP's: {home / 'stopwords.txt'}" in capfd.readouterr().err


def test_damaged_files(home):
    place(home, vocab="{", word_synonym='{"房间": "屋子"}', word_homonym="[")
    assert f"dictionary {home / 'word_synonym.json'}: word '房间': expected JSON" in failure("substitute")
    assert f"dictionary {home / 'word_homonym.json'}" in failure("insert", "homonym")
    (home / "word_synonym.json").write_text(CONTENTS["word_synonym"], encoding="utf-8")
    message = failure("substitute")
    assert "dataaug cannot read its files" in message and str(home / "baidu_encyclopedia_w2v_vocab.json") in message


# ------------------------------------------------------------------------------------------------------ language model


@pytest.fixture(scope="session")
def language_model(tiny_model, tmp_path_factory):
    """Folder of a masked language model with random weights, that takes 64 tokens."""
    from paddlenlp.transformers import ErnieConfig, ErnieForMaskedLM, ErnieTokenizer

    folder = tmp_path_factory.mktemp("mlm")
    config = ErnieConfig.from_pretrained(str(tiny_model))
    config.max_position_embeddings = 64
    ErnieForMaskedLM(config).save_pretrained(str(folder))
    ErnieTokenizer.from_pretrained(str(tiny_model)).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("strategy", ["substitute", "insert"])
def test_a_language_model(home, language_model, strategy):
    place(home)
    augmenter = Augmenter(strategy, "mlm", create_n=2, model_name=str(language_model))
    engine = augmenter.operations[0].engine
    tokenizer, masked = engine.mlm_tokenizer, []

    def spy(text):
        masked.append(text)
        return tokenizer(text)

    spy.mask_token_id, spy.convert_ids_to_tokens = tokenizer.mask_token_id, tokenizer.convert_ids_to_tokens
    engine.mlm_tokenizer = spy
    for text in (TEXT, f"{TEXT}，" * 160):
        masked.clear()
        found = augmenter.augment(text)
        assert len(found) == 2
        for new in found:
            assert not any(token in new for token in ("[MASK]", "[UNK]", "##"))
            assert is_subsequence(text, new) if strategy == "insert" else len(new) == len(text)
            # What is predicted is where its mask was.
            assert text != TEXT or any(fits(each, new) for each in masked)
        assert augmenter.augment(text) == found
    assert augmenter.augment("😀") == [] == augmenter.augment("")


def fits(masked, new):
    head, tail = masked.partition("[MASK]")[0], masked.rpartition("[MASK]")[2]
    return len(masked.replace("[MASK]", "?")) == len(new) and new.startswith(head) and new.endswith(tail)


def test_models_that_predict_no_words(home, tiny_model, language_model):
    place(home)
    assert "it holds ErnieModel, which predicts no words" in failure("insert", "mlm", model_name=str(tiny_model))
    assert "no such folder" in failure("insert", "mlm", model_name=NO_MODEL)
    assert "use --device cpu" in failure("insert", "mlm", model_name=str(language_model), device="gpu")
