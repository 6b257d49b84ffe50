"""Text in, padded batches out: nothing lost, nothing twice, nothing that depends on the order of the input."""

import gc
import gzip
import json
import os
import random

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import write_lines
from hypothesis import given
from hypothesis import strategies as st

from data import prepare as pipeline
from data import spooling
from data.batches import BatchOrder, collate, gather, iterate
from data.corpus import Corpus, fingerprint, write_shard
from data.errors import CorpusError
from data.manifest import write_manifest
from data.placing import MARK
from data.prepare import prepare
from data.settings import PrepareSettings
from data.sources import streams
from data.sources.columns import Columns
from data.sources.named import NAMED, from_files
from data.tokens.cleaning import CleaningSettings, Dropped, clean, tokenize_texts
from data.vocabulary import BOS_ID, EOS_ID, PAD_ID, SPECIAL_TOKENS, UNK_ID, Vocabulary

WORDS = [f"word{number}" for number in range(40)]


def some_lines(num=300, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(num)]


def make(tmp_path, lines, name="out", overwrite=False, **settings) -> Corpus:
    source = from_files({"all": [str(write_lines(tmp_path / f"{name}.txt", lines))]})
    return prepare(source, PrepareSettings.resolve(source, settings), tmp_path / name, overwrite=overwrite)[0]


def all_texts(corpus, split):
    part = corpus.split(split)
    return [" ".join(corpus.vocabulary.decode(part.sequence(index))) for index in range(len(part))]


@given(st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1)))
def test_known_tokens_are_encoded_and_decoded_to_themselves(words):
    vocabulary = Vocabulary.of(words)
    kept = [word for word in words if word not in SPECIAL_TOKENS]
    assert vocabulary.decode(vocabulary.encode(kept)) == kept
    assert vocabulary.encode_column(pl.Series(kept, dtype=pl.String)).to_list() == vocabulary.encode(kept)


def test_text_cannot_smuggle_special_tokens_in():
    vocabulary = Vocabulary.of(["a", "</s>", "<pad>"])
    assert len(vocabulary) == 5
    assert vocabulary.encode(["<pad>", "<s>", "</s>", "<unk>", "a", "new"]) == [UNK_ID] * 4 + [4, UNK_ID]


def test_vocabulary_by_size_and_count_does_not_depend_on_order():
    counts = pl.DataFrame({"token": ["b", "a", "c", "d"], "count": [2, 2, 5, 1]})
    assert Vocabulary.from_counts(counts, 2, 1).tokens[4:] == ("c", "a")
    assert Vocabulary.from_counts(counts.reverse(), None, 2).tokens[4:] == ("c", "a", "b")


def test_every_dropped_sequence_is_counted_under_a_reason():
    rows = [
        "fine words here",
        "",
        "   ",
        None,
        "see http://x.org now",
        "mail a@b.com please",
        "call 555 123 4567 now",
        "short",
        "a b c d e f g",
    ]
    settings = CleaningSettings(min_tokens=2, max_tokens=6, drop_contacts=True)
    dropped = Dropped()
    schema = dict.fromkeys(("text", "group", "label"), pl.String)
    kept, num_read = clean(pl.DataFrame({"text": rows, "group": None, "label": None}, schema=schema), settings, dropped)
    assert kept["tokens"].to_list() == [["fine", "words", "here"]]
    assert num_read == sum(len(row or "") + 1 for row in rows)
    assert num_read == kept["num_bytes"].sum() + dropped.num_bytes.total()
    assert dropped.sequences == {
        "empty": 2,
        "missing": 1,
        "url": 1,
        "email": 1,
        "phone": 1,
        "too short": 1,
        "too long": 1,
    }
    assert kept["num_bytes"].to_list() == [len("fine words here") + 1]


SPACES = "".join(chr(code) for code in range(0x3100) if chr(code).isspace() or code in range(0x200B, 0x2010))


@given(st.text(st.sampled_from("ab" + SPACES), max_size=30))
def test_words_are_what_stands_between_white_space_of_any_kind(text):
    text = text.replace("\n", " ")
    assert tokenize_texts([text], CleaningSettings()) == [text.split()]


def test_tokens_keep_their_numbers_from_chunk_to_chunk():
    numbers = spooling.TokenNumbers()
    first = numbers.of(pl.Series([["a", "b"], [], ["a"]])).to_list()
    gc.collect()
    second = numbers.of(pl.Series([["c", "b", "a"]])).to_list()
    assert numbers.tokens(np.array(first[0] + second[0])).to_list() == ["a", "b", "c", "b", "a"]
    assert first == [first[0], [], first[0][:1]]
    assert second[0][1:] == first[0][::-1]


def test_tokenisation_by_regular_expression():
    settings = CleaningSettings(tokenizer="regex", lowercase=True)
    assert tokenize_texts(["Don't stop, <unk>!"], settings) == [["don't", "stop", ",", "<unk>", "!"]]


def test_a_corpus_is_the_same_whatever_the_order_of_its_input(tmp_path):
    lines = some_lines()
    first = make(tmp_path, sorted(lines), "sorted")
    random.Random(1).shuffle(lines)
    second = make(tmp_path, lines, "shuffled")
    assert first.fingerprint == second.fingerprint
    assert sorted(all_texts(first, "train") + all_texts(first, "valid") + all_texts(first, "test")) == sorted(
        set(lines)
    )


def test_many_buckets_give_the_sequences_of_one(tmp_path, monkeypatch):
    lines = some_lines()
    whole = make(tmp_path, lines, "whole")
    monkeypatch.setattr(spooling, "BUCKET_BYTES", 2000)
    cut = make(tmp_path, lines, "cut")
    assert len(cut.manifest.splits["train"].shards) > 3
    for split in ("train", "valid", "test"):
        assert sorted(all_texts(cut, split)) == sorted(all_texts(whole, split))
        assert cut.split(split).num_bytes.sum() == whole.split(split).num_bytes.sum()


def test_groups_stay_in_one_split(tmp_path):
    rows = [{"text": line, "who": f"group{number % 30}"} for number, line in enumerate(some_lines())]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    source = from_files({"all": [str(path)]}, Columns("text", "who"))
    settings = PrepareSettings.resolve(source, {"split_by_group": True, "valid_fraction": 0.3, "deduplicate": False})
    corpus, _ = prepare(source, settings, tmp_path / "out")
    groups_of = {row["text"]: set() for row in rows}
    for row in rows:
        groups_of[row["text"]].add(row["who"])
    seen = {}
    for split in ("train", "valid", "test"):
        for text in all_texts(corpus, split):
            if len(groups_of[text]) == 1:
                assert seen.setdefault(next(iter(groups_of[text])), split) == split
    assert set(seen.values()) == {"train", "valid", "test"}


FORMATS = [
    ".txt",
    ".txt.gz",
    ".txt.zst",
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
    ".csv",
    ".csv.gz",
    ".csv.zst",
    ".tsv",
    ".parquet",
]


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_same_corpus(tmp_path, ending):
    lines = some_lines(120)
    frame, kind = pl.DataFrame({"text": lines, "other": range(len(lines))}), ending.split(".")[1]
    path = tmp_path / f"rows{ending}"
    if kind == "parquet":
        frame.write_parquet(path)
    else:
        text = {
            "txt": "\n".join(lines),
            "jsonl": frame.write_ndjson(),
            "csv": frame.write_csv(),
            "tsv": frame.write_csv(separator="\t"),
        }[kind].encode()
        if ending.endswith(".gz"):
            text = gzip.compress(text)
        if ending.endswith(".zst"):
            text = pa.compress(text, "zstd", asbytes=True)
        path.write_bytes(text)
    source = from_files({"all": [str(path)]})
    corpus, _ = prepare(source, PrepareSettings.resolve(source, {}), tmp_path / "out")
    assert corpus.fingerprint == make(tmp_path, lines, "plain").fingerprint


def test_a_second_preparation_does_nothing_and_another_one_is_refused(tmp_path):
    source = from_files({"all": [str(write_lines(tmp_path / "a.txt", some_lines()))]})
    settings = PrepareSettings.resolve(source, {})
    assert prepare(source, settings, tmp_path / "out")[1]
    before = (tmp_path / "out/manifest.json").stat().st_mtime_ns
    assert not prepare(source, settings, tmp_path / "out")[1]
    assert (tmp_path / "out/manifest.json").stat().st_mtime_ns == before
    other = PrepareSettings.resolve(source, {"min_tokens": 2})
    with pytest.raises(CorpusError, match="--overwrite"):
        prepare(source, other, tmp_path / "out")
    assert prepare(source, other, tmp_path / "out", overwrite=True)[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out"]


def test_another_column_is_another_corpus(tmp_path):
    pl.DataFrame({"one": some_lines(seed=1), "two": some_lines(seed=2)}).write_csv(tmp_path / "rows.csv")

    def prepared(column):
        source = from_files({"all": [str(tmp_path / "rows.csv")]}, Columns(column))
        return prepare(source, PrepareSettings.resolve(source, {}), tmp_path / "out")

    assert prepared("one")[1]
    assert not prepared("one")[1]
    with pytest.raises(CorpusError, match="other text or settings"):
        prepared("two")


def test_what_a_killed_preparation_left_is_removed_by_the_next(tmp_path):
    stale = tmp_path / ".out.writing"
    stale.mkdir()
    (stale / MARK).touch()
    (stale / "half").write_text("x")
    make(tmp_path, some_lines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.txt"]
    assert not (tmp_path / "out" / MARK).exists()


def test_preparing_touches_no_file_that_is_not_its_own(tmp_path):
    """Neither beside the corpus, where it writes first, nor among the files that --overwrite replaces."""
    strange = tmp_path / ".out.writing"
    strange.mkdir()
    (strange / "half").write_text("mine")
    with pytest.raises(CorpusError, match="in the way"):
        make(tmp_path, some_lines())
    (strange / "half").rename(tmp_path / "kept")
    strange.rmdir()
    lock = tmp_path / ".out.lock"
    lock.write_text("mine")
    corpus = make(tmp_path, some_lines())
    (corpus.folder / "notes.txt").write_text("mine")
    (corpus.folder / "train-00009.arrow").symlink_to(tmp_path / "kept")
    with pytest.raises(CorpusError, match=r"notes.txt, train-00009.arrow"):
        make(tmp_path, some_lines(seed=5), overwrite=True)
    assert [path.read_text() for path in (corpus.folder / "notes.txt", tmp_path / "kept", lock)] == ["mine"] * 3
    assert Corpus.open(corpus.folder).fingerprint == corpus.fingerprint


def test_shards_that_are_not_the_manifests_are_refused_before_they_are_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus = make(tmp_path, some_lines())
    folder, manifest = corpus.folder, (corpus.folder / "manifest.json").read_text()
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1
    valid, test = folder / "valid-00000.arrow", folder / "test-00000.arrow"
    # Of one size and time, so that nothing but the content, or when the disk last heard of it, tells.
    content = bytearray(valid.read_bytes())
    before = valid.stat()
    content[len(content) // 2] ^= 1
    valid.write_bytes(content)
    os.utime(valid, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CorpusError, match="fingerprint"):
        Corpus.open(folder)
    content[len(content) // 2] ^= 1
    valid.write_bytes(content)
    Corpus.open(folder)
    changed = json.loads(manifest)
    for name, other in (("valid", "test"), ("test", "valid")):
        changed["splits"][name] |= {"shards": json.loads(manifest)["splits"][other]["shards"]}
    (folder / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(CorpusError, match="digest"):
        Corpus.open(folder)
    (folder / "manifest.json").write_text(manifest)
    valid.rename(folder / "x")
    test.rename(valid)
    (folder / "x").rename(test)
    with pytest.raises(CorpusError, match="damaged"):
        Corpus.open(folder)


def test_token_ids_beyond_the_vocabulary_and_offsets_beyond_the_tokens_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus = make(tmp_path, some_lines())
    path, ids = corpus.folder / "valid-00000.arrow", np.array([5, 6, corpus.vocabulary_size], np.uint16)

    def open_with_shard(offsets):
        write_shard(path, ids, np.array([1, 2]), np.ones(2))
        # Arrow itself would not write offsets that do not fit.
        written, wanted = (np.array(each, np.int64).tobytes() for each in ([0, 1, 3], offsets))
        assert path.read_bytes().count(written) == 1
        path.write_bytes(path.read_bytes().replace(written, wanted))
        files = corpus.manifest.files | {path.name: path.stat().st_size}
        found = fingerprint(corpus.folder, list(files))
        write_manifest(corpus.folder, corpus.manifest.model_copy(update={"files": files, "fingerprint": found}))
        return Corpus.open(corpus.folder)

    with pytest.raises(CorpusError, match=f"token id {corpus.vocabulary_size} in valid"):
        open_with_shard([0, 1, 3])
    ids[-1] -= 1
    assert list(open_with_shard([0, 1, 3]).split("valid").lengths) == [1, 2]
    with pytest.raises(CorpusError, match=r"no shard|offsets do not fit"):
        open_with_shard([0, 1, 9])
    with pytest.raises(CorpusError, match=r"no shard|offsets do not fit"):
        open_with_shard([0, 3, 1])


def test_a_byte_order_mark_is_no_part_of_the_text_and_blocks_may_cut_anywhere(tmp_path, monkeypatch):
    lines = some_lines()
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    monkeypatch.setattr(streams, "BLOCK_BYTES", 37)
    source = from_files({"all": [str(tmp_path / "marked.txt")]})
    corpus, _ = prepare(source, PrepareSettings.resolve(source, {}), tmp_path / "out")
    assert corpus.fingerprint == make(tmp_path, lines, "plain").fingerprint


def test_json_lines_that_begin_with_nulls_and_tabs_with_quotation_marks(tmp_path):
    rows = [{"text": None}] * 150 + [{"text": line} for line in some_lines()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rows.tsv").write_text("text\tid\n" + "\n".join(f'say "hi {line}\t1' for line in some_lines()))
    for name, dropped in (("rows.jsonl", 150), ("rows.tsv", 0)):
        source = from_files({"all": [str(tmp_path / name)]})
        corpus, _ = prepare(source, PrepareSettings.resolve(source, {}), tmp_path / f"{name}.out")
        assert corpus.manifest.dropped.get("missing", 0) == dropped


def test_duplicates_are_dropped_and_counted_or_kept(tmp_path):
    lines = some_lines(100)
    once, every = make(tmp_path, lines * 2, "once"), make(tmp_path, lines * 2, "every", deduplicate=False)
    assert once.manifest.dropped["duplicate"] == 2 * len(lines) - len(set(lines))
    assert sum(split.num_sequences for split in every.manifest.splits.values()) == 200


def test_given_splits_are_kept_and_their_overlap_is_counted(tmp_path):
    parts = {
        name: [str(write_lines(tmp_path / f"{name}.txt", lines))]
        for name, lines in {"train": ["a b", "c d", "a b"], "valid": ["a b", "e f"], "test": ["g h"]}.items()
    }
    source = from_files(parts)
    corpus, _ = prepare(source, PrepareSettings.resolve(source, {}), tmp_path / "out")
    assert [corpus.manifest.splits[name].num_sequences for name in ("train", "valid", "test")] == [3, 2, 1]
    assert corpus.manifest.also_in_train == {"valid": 1, "test": 0}
    assert corpus.manifest.splits["valid"].num_unknown == 2


def test_standard_files_lose_their_label_and_use_the_given_vocabulary(tmp_path):
    for split in ("train", "valid", "test"):
        write_lines(tmp_path / f"short_yelp.{split}.txt", ["1\tgood food .", "0\tbad food ."])
    write_lines(tmp_path / "vocab.txt", ["<pad>", "<s>", "</s>", "<unk>", ".", "food", "good"])
    source = NAMED["short-yelp"](tmp_path, 0)
    corpus, _ = prepare(source, PrepareSettings.resolve(source, {}), tmp_path / "out")
    assert sorted(all_texts(corpus, "test")) == ["<unk> food .", "good food ."]
    fewer, _ = prepare(source, PrepareSettings.resolve(source, {"vocabulary_size": 2}), tmp_path / "fewer")
    assert sorted(all_texts(fewer, "test")) == ["<unk> food .", "<unk> food ."]


def test_a_corpus_of_known_likelihood_keeps_its_words(tmp_path):
    source = NAMED["synthetic-topics"](None, 0)
    with pytest.raises(CorpusError, match="500 words"):
        prepare(source, PrepareSettings.resolve(source, {"vocabulary_size": 100}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    def break_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "encode_buckets", break_off)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, some_lines())
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_collate_frames_and_pads():
    batch = collate([np.array([7, 8, 9]), np.array([5])], np.array([3, 1]))
    assert batch.tokens.tolist() == [[BOS_ID, 7, 8, 9, EOS_ID], [BOS_ID, 5, EOS_ID, PAD_ID, PAD_ID]]
    assert batch.lengths.tolist() == [5, 3]
    assert batch.num_targets == 6


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(1, 9), st.integers(2, 80), st.integers(0, 5))
def test_an_epoch_holds_each_sequence_once_whatever_the_batches(lengths, size, budget, epoch):
    for max_tokens in (None, budget):
        order = BatchOrder(np.array(lengths, np.int64), size, max_tokens, seed=3)
        batches = order.epoch(epoch)
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        assert [part.tolist() for part in order.epoch(epoch)] == [part.tolist() for part in batches]
        assert sorted(np.concatenate(order.in_order_of_length()).tolist()) == list(range(len(lengths)))
        for part in batches:
            padded = len(part) * (max(lengths[index] for index in part) + 2)
            assert len(part) <= size if max_tokens is None else len(part) == 1 or padded <= budget


def test_batches_are_of_like_lengths_and_their_order_differs_between_epochs(corpus):
    split = corpus.split("train")
    order = BatchOrder(split.lengths, 8, seed=1)
    spread = np.mean([np.ptp(split.lengths[part]) for part in order.epoch(0)])
    assert spread < 1.5
    assert [part.tolist() for part in order.epoch(0)] != [part.tolist() for part in order.epoch(1)]


def test_an_epoch_can_be_gone_on_with_in_the_middle(corpus):
    split = corpus.split("train")
    batches = BatchOrder(split.lengths, 8).epoch(2)
    whole = [batch.tokens.tolist() for batch in iterate(split, batches)]
    assert [batch.tokens.tolist() for batch in iterate(split, batches, 5)] == whole[5:]


def test_sequences_are_views_of_the_memory_mapped_shards(corpus):
    split = corpus.split("train")
    assert not split.sequence(0).flags.owndata
    assert gather(split, np.array([2, 0])).lengths.tolist() == [split.lengths[2] + 2, split.lengths[0] + 2]


def test_a_line_that_repeats_is_held_once_a_chunk_whatever_the_order(tmp_path, monkeypatch):
    settled, in_order = [], spooling.in_order
    monkeypatch.setattr(spooling, "in_order", lambda rows: settled.append(rows) or in_order(rows))
    lines = sorted(set(some_lines())) * 500
    mixed = make(tmp_path, random.Random(0).sample(lines, len(lines)), "mixed")
    assert mixed.manifest.dropped == {"duplicate": len(lines) - len(set(lines))}
    assert settled[-1].height == len(set(lines))
    assert mixed.fingerprint == make(tmp_path, lines, "sorted").fingerprint


def test_the_vocabulary_is_read_when_it_is_asked_for(tmp_path):
    made = make(tmp_path, some_lines())
    path = made.folder / "vocabulary.json"
    words = json.loads(path.read_text())
    text = json.dumps(words[:-1])
    path.write_text(text + " " * (path.stat().st_size - len(text)))
    write_manifest(
        made.folder,
        made.manifest.model_copy(update={"fingerprint": fingerprint(made.folder, list(made.manifest.files))}),
    )
    opened = Corpus.open(made.folder)
    assert opened.vocabulary_size == len(words)
    with pytest.raises(CorpusError, match=f"damaged: {len(words) - 1} tokens"):
        opened.vocabulary  # noqa: B018 - reading it is what fails


@pytest.mark.parametrize("place", ["train-00000.arrow", "vocabulary.json"])
def test_a_truncated_file_is_noticed_when_the_corpus_is_opened(tmp_path, place):
    folder = make(tmp_path, some_lines()).folder
    path = folder / place
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorpusError, match="damaged"):
        Corpus.open(folder)


def test_changed_content_is_noticed_by_verify(tmp_path):
    corpus = make(tmp_path, some_lines())
    corpus.verify()
    path = corpus.folder / "train-00000.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorpusError, match="fingerprint"):
        Corpus.open(corpus.folder).verify()


def prepared(folder, patterns, **given):
    source = from_files(patterns, Columns(given.pop("column", None), given.pop("group_column", None)))
    return prepare(source, PrepareSettings.resolve(source, given), folder / "prepared")[0]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_groups_in_two_of_the_splits_that_were_given_are_refused(tmp_path):
    files = {
        split: [jsonl(tmp_path / f"{split}.jsonl", [{"text": f"{split} {n}", "g": f"g{n + first}"} for n in range(5)])]
        for split, first in (("train", 0), ("valid", 3), ("test", 100))
    }
    with pytest.raises(CorpusError, match="2 groups are in more than one"):
        prepared(tmp_path, files, group_column="g", split_by_group=True)
    assert not (tmp_path / "prepared").exists()
    assert len(prepared(tmp_path, files, group_column="g").split("train")) == 5


def test_sequences_without_a_group_are_spread_over_the_splits(tmp_path):
    rows = [{"text": f"number {n}", "g": None} for n in range(400)]
    made = prepared(
        tmp_path,
        {"all": [jsonl(tmp_path / "a.jsonl", rows)]},
        group_column="g",
        split_by_group=True,
        valid_fraction=0.2,
        test_fraction=0.2,
    )
    assert all(50 < len(made.split(name)) < 350 for name in ("train", "valid", "test"))


def test_separators_are_white_space_and_make_no_duplicates(tmp_path):
    lines = [f"foo\x1fbar baz{n}" for n in range(60)] + [f"foo bar\x1fqux{n}" for n in range(60)]
    path = write_lines(tmp_path / "a.txt", lines)
    made = prepared(tmp_path, {"all": [str(path)]}, valid_fraction=0.2, test_fraction=0.2)
    assert made.manifest.dropped == {}
    assert {"foo", "bar"} <= set(made.vocabulary.tokens)


def test_an_empty_file_among_others_is_passed_over_and_alone_it_is_an_error(tmp_path):
    write_lines(tmp_path / "a.txt", [f"line {n} of many" for n in range(200)])
    (tmp_path / "zz.txt").touch()
    assert len(prepared(tmp_path, {"all": [str(tmp_path)]}).split("train")) > 100
    with pytest.raises(CorpusError, match="is empty"):
        from_files({"all": [str(tmp_path / "zz.txt")]})
