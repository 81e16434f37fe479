"""Text to token shards to batches: `prepare_corpus`, `Corpus`, `Sampler`, `ByteTokenizer`."""

from swarm.data.corpus import Corpus, prepare_corpus
from swarm.data.documents import DataReport
from swarm.data.domains import DEMO_DOMAINS
from swarm.data.sampler import Sampler
from swarm.data.tokenizer import ByteTokenizer

__all__ = ["DEMO_DOMAINS", "ByteTokenizer", "Corpus", "DataReport", "Sampler", "prepare_corpus"]
