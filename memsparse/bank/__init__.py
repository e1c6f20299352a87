"""The memory bank: documents and their chunks on disk, and the reader that routes to them."""

from memsparse.bank.bank import Bank
from memsparse.bank.fingerprint import Fingerprint
from memsparse.bank.reader import BankReader
from memsparse.bank.records import BankStats, DocumentInfo, Source
from memsparse.bank.segments import EncodedChunks
from memsparse.bank.tiers import TierConfig, TierReport

__all__ = [
    "Bank",
    "BankReader",
    "BankStats",
    "DocumentInfo",
    "EncodedChunks",
    "Fingerprint",
    "Source",
    "TierConfig",
    "TierReport",
]
