"""Nothing lost: kill runs, damage files, fuzz readers, and see that no result, value or record is
lost without a word.

python -m benchmarks.faults kills --count 50     # kill -9 while training, embedding, indexing
python -m benchmarks.faults studies --count 20   # kill -9 of processes that share a comparison
python -m benchmarks.faults media --count 5000   # damaged files of every kind, through every reader
python -m benchmarks.faults fuzz --seconds 300   # atheris over decoders and readers
"""
