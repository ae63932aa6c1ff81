"""Record linkage: which records of two sets, or of one, are of the same thing."""

from amodal.linkage.link import link as link
from amodal.linkage.result import Links as Links

__all__ = ["Links", "link"]
