"""Each tokenizer knows its way back: text, tokens, ids and text again."""

import random

import polars as pl
import pytest
from conftest import write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from data.corpus import Corpus
from data.errors import CorpusError
from data.prepare import prepare
from data.settings import PrepareSettings
from data.sources.columns import Columns
from data.sources.molecules import moses
from data.sources.named import NAMED, from_files
from data.tokens import subwords
from data.tokens.cleaning import CleaningSettings, stripped, tokenize_texts
from data.tokens.codec import Codec, codec_of
from data.tokens.tokenizers import TOKENIZERS
from data.vocabulary import SPECIAL_TOKENS, Vocabulary

ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
CHINESE = ["今天天气很好", "我们去公园", "这家餐厅的菜很好吃", "服务很慢不会再来", "他喜欢喝茶"]
MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "C[C@@H](N)C(=O)O",
    "BrCCl",
    "c1ccc2c(c1)[nH]c1ccccc12",
    "C%10CCCCC%10",
    "[Na+].[Cl-]",
]


def cleaned(text):
    return stripped(pl.Series([text], dtype=pl.String))[0]


@pytest.mark.parametrize("name", [name for name, tokenizer in TOKENIZERS.items() if tokenizer.is_exact])
@given(text=ANY)
def test_tokens_join_to_the_text_that_they_came_from(name, text):
    tokens = tokenize_texts([text], CleaningSettings(tokenizer=name))[0]
    # Pieces of byte pairs are text themselves, not bytes yet.
    assert ("".join(tokens) if name == "bpe" else TOKENIZERS[name].join(tokens)) == cleaned(text)


@given(text=ANY)
def test_words_joined_by_blanks_are_cut_into_the_same_words(text):
    tokens = tokenize_texts([text], CleaningSettings())[0]
    assert tokenize_texts([" ".join(tokens)], CleaningSettings())[0] == tokens


def test_a_character_is_what_a_reader_sees_as_one():
    family, flag, accent = "👨‍👩‍👧", "🇩🇪", "e\u0301"
    tokens = tokenize_texts([f"a{family}{flag}{accent} b"], CleaningSettings(tokenizer="char"))
    assert tokens == [["a", family, flag, accent, " ", "b"]]
    composed = CleaningSettings(tokenizer="char", normalization="nfc")
    assert tokenize_texts([accent], composed) == [["é"]]


def test_molecules_are_cut_into_atoms():
    wanted = ["C", "[C@@H]", "(", "N", ")", "Br", "Cl", "c", "%10", "=", "O", "1", "[nH]", "B", "S"]
    tokens = tokenize_texts(["C[C@@H](N)BrClc%10=O1[nH]BS"], CleaningSettings(tokenizer="smiles"))[0]
    assert tokens == wanted
    # What has no end is cut into characters, and lost nowhere.
    assert tokenize_texts(["C[C"], CleaningSettings(tokenizer="smiles")) == [["C", "[", "C"]]


def trained(texts, size=300):
    pieces = [piece for tokens in tokenize_texts(texts, CleaningSettings(tokenizer="bpe")) for piece in tokens]
    counts = pl.Series("token", pieces).value_counts()
    return subwords.train(counts, size)


BYTE_PAIRS = trained(["the cat sat on the mat", "the dog sat", "今天天气很好 the cat"] * 20)


@given(text=ANY)
@settings(max_examples=200)
def test_byte_pairs_know_every_text(text):
    codec = Codec(
        Vocabulary((*SPECIAL_TOKENS, *BYTE_PAIRS.tokens), BYTE_PAIRS.merges), CleaningSettings(tokenizer="bpe")
    )
    ids = codec.encode([text])[0]
    assert (ids >= len(SPECIAL_TOKENS)).all()
    assert codec.decode(ids.tolist()) == cleaned(text)


def test_byte_pairs_are_merged_by_how_often_they_occur_whatever_the_order():
    texts = ["low low low low low", "lower lower", "newest newest newest newest newest newest", "widest widest widest"]
    first = trained(texts, 262)
    # As Sennrich et al. (arXiv 1508.07909) work it out for these words: "es", then "est".
    assert first.merges[:2] == (("e", "s"), ("es", "t"))
    random.Random(0).shuffle(texts)
    assert trained(texts, 262) == first
    assert len(first.tokens) == 262
    with pytest.raises(CorpusError, match="at least 256"):
        trained(texts, 200)


def make(tmp_path, lines, name, **given) -> Corpus:
    source = from_files({"all": [str(write_lines(tmp_path / f"{name}.txt", lines))]})
    usual = {"valid_fraction": 0.2, "test_fraction": 0.2, "deduplicate": False}
    return prepare(source, PrepareSettings.resolve(source, usual | given), tmp_path / name)[0]


def some_texts(kind, num=200):
    draw = random.Random(0)
    parts = {"char": CHINESE, "bpe": [*CHINESE, "good food ", "naïve café "], "smiles": MOLECULES}[kind]
    return ["".join(draw.choices(parts, k=3)).strip() for _ in range(num)]


@pytest.mark.parametrize("kind", ["char", "bpe", "smiles"])
def test_a_prepared_corpus_gives_back_its_text(tmp_path, kind):
    texts = some_texts(kind)
    corpus = make(tmp_path, texts, "out", tokenizer=kind, **({"vocabulary_size": 300} if kind == "bpe" else {}))
    codec = codec_of(Corpus.open(corpus.folder))
    found = []
    for split in ("train", "valid", "test"):
        part = corpus.split(split)
        found += [codec.decode(part.sequence(row)) for row in range(len(part))]
        assert kind != "bpe" or corpus.manifest.splits[split].num_unknown == 0
    assert sorted(found) == sorted(texts)
    # The same in another order is the same corpus.
    assert (
        make(
            tmp_path,
            texts[::-1],
            "again",
            **{name: corpus.manifest.settings[name] for name in ("tokenizer", "vocabulary_size")},
        ).fingerprint
        == corpus.fingerprint
    )


def test_byte_pairs_are_trained_on_the_training_split_alone(tmp_path):
    files = {
        "train": [str(write_lines(tmp_path / "train.txt", ["abab abab ab"] * 30))],
        "valid": [str(write_lines(tmp_path / "valid.txt", ["xyxy xyxy xy abab"] * 30))],
        "test": [str(write_lines(tmp_path / "test.txt", ["xyxy"] * 30))],
    }
    source = from_files(files)
    chosen = PrepareSettings.resolve(source, {"tokenizer": "bpe", "vocabulary_size": 260})
    corpus = prepare(source, chosen, tmp_path / "out")[0]
    assert not any("x" in first + second for first, second in corpus.vocabulary.merges)
    assert corpus.vocabulary.merges


def test_sequences_that_byte_pairs_make_too_long_are_counted(tmp_path):
    lines = [f"aaaa bbbb {number}" for number in range(50)] + [
        "".join(random.Random(1).choices("cdefgh", k=40)) for _ in range(5)
    ]
    corpus = make(tmp_path, lines, "out", tokenizer="bpe", vocabulary_size=262, max_tokens=20)
    assert corpus.manifest.dropped["too long"] == 5
    assert corpus.manifest.text_bytes.dropped["too long"] == 5 * 41
    assert max(corpus.split(name).lengths.max() for name in ("train", "valid", "test")) <= 20


@pytest.mark.parametrize(
    ("lines", "given", "seen", "advice"),
    [
        ([f"{text}{number}" for number in range(40) for text in CHINESE], {}, "unknown", "char, or bpe"),
        ([f"C{'C' * (number % 9)}(=O)O{number}" for number in range(200)], {}, "unknown", "--tokenizer smiles"),
        (["yes", "no"] * 100, {}, "single token", "regex, char or bpe"),
        ([f"a{number} b{number}" for number in range(200)], {"min_count": 1}, "unknown", "more text"),
        (["a b c", "b c a", "c a b", "a c b"] * 10 + ["a b " * 90], {}, "one sequence makes up", "a sequence a line"),
    ],
)
def test_a_corpus_that_cannot_be_learnt_is_refused_with_what_to_try(tmp_path, lines, given, seen, advice):
    # The long one is in the training split whatever the hash: it is given there.
    parts = {
        name: [str(write_lines(tmp_path / f"{name}.txt", lines[: len(lines) // n]))]
        for name, n in (("valid", 4), ("test", 5))
    }
    parts["train"] = [
        str(write_lines(tmp_path / "train.txt", lines[len(lines) // 4 :] if "unknown" in seen else lines))
    ]
    source = from_files(parts)
    chosen = PrepareSettings.resolve(source, {"max_tokens": 300, **given})
    with pytest.raises(CorpusError, match=seen) as refused:
        prepare(source, chosen, tmp_path / "out")
    assert advice in str(refused.value)
    assert "--force" in str(refused.value)
    assert not (tmp_path / "out").exists()
    assert prepare(source, chosen, tmp_path / "out", force=True)[1]


def test_labels_are_kept_beside_the_text(tmp_path):
    lines = {
        "tab": [f"{n % 3}\tsome words here {n % 7}" for n in range(60)],
        "fasttext": [f"__label__{'abc'[n % 3]} some words here {n % 7}" for n in range(60)],
    }
    for style, names in (("tab", ["0", "1", "2"]), ("fasttext", ["a", "b", "c"])):
        path = write_lines(tmp_path / f"{style}.txt", lines[style])
        source = from_files({"all": [str(path)]}, Columns(labels_in_text=style))
        chosen = PrepareSettings.resolve(source, {"deduplicate": False, "valid_fraction": 0.2, "test_fraction": 0.2})
        corpus = Corpus.open(prepare(source, chosen, tmp_path / style)[0].folder)
        assert corpus.manifest.labels == names
        assert "__label__" not in " ".join(corpus.vocabulary.tokens)
        train = corpus.split("train")
        assert len(train.labels) == len(train)
        assert set(train.labels) <= {0, 1, 2}
    write_lines(tmp_path / "bad.txt", [*lines["tab"], "no label"])
    with pytest.raises(CorpusError, match="line 61 has no label"):
        list(from_files({"all": [str(tmp_path / "bad.txt")]}, Columns(labels_in_text="tab")).splits["all"][0].chunks())


def test_moses_is_read_from_its_wheel_or_its_files(tmp_path):
    import gzip
    import zipfile

    from data.sources.molecules import FILES, INSIDE

    content = gzip.compress(b"SMILES\n" + "\n".join(MOLECULES * 5).encode() + b"\n")
    with zipfile.ZipFile(tmp_path / "molsets.whl", "w") as wheel:
        for name in FILES.values():
            wheel.writestr(f"{INSIDE}/{name}", content)
            (tmp_path / name).write_bytes(content)
    first, second = (
        prepare(source, PrepareSettings.resolve(source, {}), tmp_path / name)[0]
        for source, name in ((moses(tmp_path / "molsets.whl", 0), "a"), (moses(tmp_path, 0), "b"))
    )
    assert first.fingerprint == second.fingerprint
    assert first.manifest.origin == {"molecules": {"train": 30, "valid": 30, "test": 30}}
    with pytest.raises(CorpusError, match="pip install --no-deps molsets"):
        moses(tmp_path / "nothing", 0)


@pytest.mark.slow
def test_statements_of_the_standard_library_make_a_corpus(tmp_path):
    source = NAMED["python-code"](None, 0)
    corpus = prepare(source, PrepareSettings.resolve(source, {}), tmp_path / "out")[0]
    assert corpus.split("train").num_tokens > 100_000
    assert str(corpus.manifest.origin["python"]).startswith("3.")
    assert corpus.manifest.labels[:2] == ["AnnAssign", "Assert"]


def test_molecules_are_counted_as_the_benchmark_counts_them(monkeypatch):
    from study.errors import StudyError
    from study.inference import molecules
    from study.inference.molecules import molecule_metrics

    # Ethanol twice, written in two ways; benzene, which is known; no molecule.
    samples = ["CCO", "OCC", "c1ccccc1", "C(", ""]
    assert molecule_metrics(samples, {"c1ccccc1"}) == {"valid": 3 / 5, "unique": 2 / 3, "novel": 1 / 2}
    assert molecule_metrics(samples, None) == {"valid": 3 / 5, "unique": 2 / 3}
    monkeypatch.setattr(molecules, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"RDKit, which is not installed: pip install 'pooled-vae-study\[molecules\]'"):
        molecule_metrics(samples, None)
