"""Strings of symbols: alphabets, words of k, unknown symbols, gaps, reading frames."""

import json

import numpy as np
import pytest
import torch

from amodal import data
from amodal.core import AmodalError, Column
from amodal.modalities import BadValue, guess, kind, make
from amodal.modalities.sequence import DNA, PROTEIN, RNA

CODONS = make("sequence", k=3)
BARCODE = "ACTTTATATTTTATTTTTGGAGCATGATCAGGAATAGTAGGAACATCATTAAGNNTATTAATTCGAGCTGA"
INSULIN = (
    "MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKTRREAEDLQVGQVELGGGPGAGSLQPLALEGSLQKR"
)


def test_kinds_of_raw(tmp_path):
    (tmp_path / "a.fasta").write_text(">seq 1 of a beetle\nACG\nTNA\n", encoding="utf-8")
    for raw in (
        "ACGTNA",
        "acg tna",
        b"ACGT\nNA",
        tmp_path / "a.fasta",
        b"\xef\xbb\xbf>x\r\nACGTNA\r\n",
        "AC-GT..NA",
    ):
        assert CODONS.decode(raw).tolist() == [0, 1, 2, 3, 4, 0]
    assert make("sequence", gaps=True).decode("A-C.").tolist() == [0, 4, 1, 4]
    assert make("sequence", alphabet="C=O-", fold=False).decode("C-C=Oc").tolist() == [
        0,
        3,
        0,
        1,
        2,
        4,
    ]
    assert CODONS.text(CODONS.decode("acgt?")) == "ACGTN"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "empty sequence"),
        (None, "empty sequence"),
        (">head only", "empty sequence"),
        ("--", "a sequence of gaps"),
        ("nnn", "no symbol of 'ACGT' in 'NNN'"),
        (">a\nAC\n>b\nGT", "2 sequences in one file"),
        (5, "a int is not"),
        (b"\xff\xff", "not text"),
    ],
)
def test_bad_values(raw, reason):
    with pytest.raises(BadValue, match=reason):
        CODONS.decode(raw)


def test_words():
    """Words are numbered as in a base of four; one with an unknown symbol, or cut short, is the
    unknown word and no target."""
    values = CODONS.collate([CODONS.decode(s) for s in ("AACTTT", "ANAACGT", "A")])
    number, counts = CODONS.kmers(values)
    assert number.tolist() == [1, 63, 64, 6, 64, 64] and counts.tolist() == [2, 3, 1]
    assert CODONS.targets(values).tolist() == [1, 63, -1, 6, -1, -1]
    loss = CODONS.token_loss(torch.randn(6, 64), CODONS.targets(values))
    assert (loss == 0).tolist() == [False, False, True, False, True, True]


def test_an_unknown_symbol_changes_its_word_only():
    module = CODONS.tokenizer(8)
    one, two = (
        module(
            Column(CODONS.collate([CODONS.decode(s)]), torch.zeros(1, dtype=torch.int64)), "s", 1
        ).x
        for s in ("ACGTTTAAA", "ACGTNTAAA")
    )
    assert ((one - two).abs().sum(1) > 0).tolist() == [False, True, False]


def test_views_read_in_every_frame():
    """A periodic sequence has three readings; weak views meet all of them."""
    value = CODONS.decode("ACG" * 60)
    firsts = {
        CODONS.kmers(CODONS.collate([CODONS.augment(value, "weak", np.random.default_rng(i))]))[0][
            0
        ].item()
        for i in range(40)
    }
    assert firsts == {0 * 16 + 1 * 4 + 2, 1 * 16 + 2 * 4 + 0, 2 * 16 + 0 * 4 + 1}
    for seed in range(20):
        for view, low, high in (("weak", 158, 180), ("strong", 87, 180), ("local", 33, 90)):
            out = CODONS.augment(value, view, np.random.default_rng(seed))
            assert low <= len(out) <= high and out.max() <= 4
    strong = np.concatenate(
        [CODONS.augment(value, "strong", np.random.default_rng(i)) for i in range(200)]
    )
    assert 0.04 < (strong == 4).mean() < 0.06 and 0.002 < (strong == 3).mean() < 0.008


def test_infer():
    infer = kind("sequence").infer
    assert infer([BARCODE, BARCODE.lower()]) == make("sequence", k=4, max_length=24)
    assert infer(["ACGUACGU"]).alphabet == RNA and infer(["ACGTTACGA" * 9]).alphabet == DNA
    assert (infer([INSULIN]).alphabet, infer([INSULIN]).k) == (PROTEIN, 1)
    smiles = infer(["CC(=O)Oc1ccccc1C(=O)O", "CCN"])
    assert (smiles.alphabet, smiles.fold) == ("()1=CNOc", False)
    assert smiles.text(smiles.decode("Oc1ccccc1")) == "Oc1ccccc1"
    assert infer([BARCODE], k=2, alphabet="ACG").k == 2
    assert (
        infer(["A" * 5000]).max_length == 512
        and infer(["A" * 5000]).truncated("A" * 5000) == 5000 - 2048
    )


def test_guess():
    assert (
        guess([BARCODE, None, BARCODE.lower()])
        == guess([INSULIN])
        == guess([BARCODE.encode()])
        == "sequence"
    )
    for text in (
        "a dog",
        "ACT",
        "Donaudampfschifffahrtsgesellschaftskapitän",
        "ORDER-66-AB-CD-EF-GH-IJ",
        "attacca",
        "ABC123" * 9,
    ):
        assert guess([text]) == "text"


def test_a_table_with_barcodes(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {
            "barcode": "".join(rng.choice(list("ACGT"), 90)),
            "note": f"seen near the river, day {i} of {i * 7}",
        }
        for i in range(30)
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert "symbols of ACGT, words of 4" in str(data.init(tmp_path))
    dataset = data.open(tmp_path)
    assert type(dataset.fields["note"]).__name__ == "Text" and dataset.fields["barcode"].k == 4
    assert dataset.fields["barcode"].text(dataset.value(2, "barcode")) == rows[2]["barcode"]


def test_parameters_are_checked():
    for options, reason in (
        ({"alphabet": "AAB"}, "different symbols"),
        ({"alphabet": ""}, "different symbols"),
        ({"alphabet": "A B"}, "without a space"),
        ({"k": 9}, "at most 65,536 words"),
        ({"k": 0}, "at least 1"),
        ({"alphabet": "acgt"}, "say fold = false"),
    ):
        with pytest.raises(AmodalError, match=reason):
            make("sequence", **options)
