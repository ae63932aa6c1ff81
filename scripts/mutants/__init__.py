"""Mutants: small mistakes that are put into a page, to see whether its tests notice.

python -m scripts.mutants dino              every mutant of a page and of the parts it alone uses
python -m scripts.mutants --all --out FILE  all pages; what FILE has already is not run again
python -m scripts.mutants --changed HEAD~5 --sample 25 --seed COMMIT --minutes 20

Each mutant is run in a fork of a process that has imported everything, against the golden test of
the page (tests/golden) and then its page test (tests/methods), never against the contract test,
which compares a page with itself. `operators` has the list of mistakes, which is the same for all
pages; `parts` says what belongs to a page; tests/golden/equivalent.toml lists the mutants that
cannot be told from the page, each with a proof.
"""
