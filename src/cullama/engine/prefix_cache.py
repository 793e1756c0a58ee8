"""Finds what cache blocks hold, so that a prefix that prompts share is computed once.

A tree in which each node is one cache block and the tokens whose keys and values it holds; its
path from the root is everything before them. A prompt walks down the tree as far as it agrees, and
starts with the blocks it met: so does the second turn of a chat, a preempted request that comes
back, and each further sample of the same prompt. Tokens are compared, not their hashes: there are
no false hits. (Blocks with a block table as in Kwon et al., "PagedAttention", SOSP 2023; a tree
over them as in Zheng et al., "SGLang", NeurIPS 2024.)

Full blocks are shared. One that agrees in part is copied, and the copy written on. A prompt is
indexed once it has led to a token, a completion when it ends; what led to NaN is never shared.
Integers only: it holds no keys or values, and handles no requests, only the `Allocation` of each.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias

from .blocks import BlockPool

Tokens: TypeAlias = tuple[int, ...]

# Where many blocks continue the same prefix, only the newest are compared with a prompt's tokens.
MAX_COMPARED = 16

# Shorter matches are not used: so few tokens are computed faster than a block is copied, and nearly
# all prompts begin with the same token.
MIN_REUSED = 8

TABLE_STEP = 256  # bytes: 64 blocks


class Copy(NamedTuple):
    source: int
    target: int


@dataclass(eq=False, slots=True)
class Node:
    """A block whose first tokens are these, after all tokens on the path from the root."""

    tokens: Tokens
    block: int
    parent: Node | None
    children: dict[Tokens, Node] = field(default_factory=dict)
    is_indexed: bool = True


class Match(NamedTuple):
    """What the cache holds of some tokens."""

    node: Node  # where its full blocks end
    blocks: list[int]  # full ones, to be shared
    partial: int | None  # a block that begins with the tokens that follow, to be copied
    tokens: int  # held in all


@dataclass(eq=False, slots=True)
class Allocation:
    """The blocks of one request. Only `PrefixCache` changes it; a new one holds no blocks."""

    blocks: Sequence[int] = ()
    capacity: int = 0  # tokens that the blocks hold
    table: bytes = b""  # the blocks as int32, padded, so that most tables are equally long
    max_tokens: int = 0  # that it may have to grow to
    cached_tokens: int = 0  # found in the cache when it was allocated
    copy: Copy | None = None  # to be made before the next pass
    indexed: int = 0  # blocks that the cache has indexed …
    node: Node | None = None  # … and the node of the last of them

    def use(self, blocks: Sequence[int], block_size: int) -> None:
        self.blocks, self.capacity = blocks, len(blocks) * block_size
        table = array("i", blocks).tobytes()
        self.table = table.ljust(-(-len(table) // TABLE_STEP) * TABLE_STEP, b"\0")


class PrefixCache:
    def __init__(self, blocks: int, block_size: int) -> None:
        self.pool = BlockPool(blocks, self._evict)
        self.block_size = block_size
        self._root = Node((), -1, None)
        self._nodes: dict[int, Node] = {}  # by block

    # --- blocks for a request ------------------------------------------------------------------

    def allocate(
        self,
        tokens: Sequence[int],
        max_tokens: int,
        spare: int = 0,
        unscored: int | None = None,
    ) -> Allocation | None:
        """Return blocks for all tokens, beginning with those that hold some of them already.

        None where no room is left for them and for `spare` blocks that others may grow into.
        `max_tokens`: what the request may grow to. `unscored`: the first position that needs the
        logits of the token before it: that one, and what follows, has to go through the model.
        """
        match = self.match(tokens[:unscored])
        self.pool.reference(match.blocks)
        count = self.blocks_for(len(tokens)) - len(match.blocks)
        if count + spare > self.pool.available:
            self.pool.release(reversed(match.blocks), self._nodes.__contains__)
            return None
        growth = self.blocks_for(max_tokens) - len(match.blocks) - count
        new = self.pool.allocate(count, match.blocks[-1] if match.blocks else None, growth)
        assert new is not None
        allocation = Allocation(
            max_tokens=max_tokens,
            cached_tokens=match.tokens,
            indexed=len(match.blocks),
            node=match.node,
        )
        allocation.use(match.blocks + new, self.block_size)
        if match.partial not in (None, new[0]):  # it may have been evicted, and allocated here
            allocation.copy = Copy(match.partial, new[0])
        return allocation

    def grow(self, allocation: Allocation, tokens: int) -> bool:
        """Make room for so many tokens in all; False, and nothing changed, where there is none."""
        blocks = allocation.blocks
        missing = self.blocks_for(tokens) - len(blocks)
        if missing <= 0:
            return True
        growth = self.blocks_for(allocation.max_tokens) - len(blocks) - missing
        more = self.pool.allocate(missing, blocks[-1], growth)
        if more is None:
            return False
        allocation.use([*blocks, *more], self.block_size)
        return True

    def free(self, allocation: Allocation, tokens: Sequence[int], shareable: int) -> None:
        """Take a request's blocks back; those of its first `shareable` tokens can be found again.

        `shareable` is 0 where what the blocks hold led to an error.
        """
        blocks = allocation.blocks
        if shareable:
            self.index(allocation, tokens, shareable)
        if blocks:
            self.pool.unreserve(blocks[-1])
        # The last first: they are evicted in the order of release, a text from its end.
        self.pool.release(reversed(blocks), self._nodes.__contains__)
        allocation.use((), self.block_size)
        allocation.indexed, allocation.node = 0, None

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def clear(self) -> None:
        """Evict all cached blocks."""
        for node in list(self._root.children.values()):
            for each in _with_descendants(node):
                self._remove(each)
                self.pool.discard(each.block)

    # --- the tree ------------------------------------------------------------------------------

    def match(self, tokens: Sequence[int]) -> Match:
        """Return the longest prefix of some tokens in the cache, the last token left out.

        That one has to go through the model in any case, for its logits.
        """
        size, most = self.block_size, len(tokens) - 1
        node, blocks = self._root, []
        for start in range(0, most - size + 1, size):
            child = node.children.get(tuple(tokens[start : start + size]))
            if child is None:
                break
            node = child
            blocks.append(child.block)
        held = len(blocks) * size
        rest = tuple(tokens[held : min(held + size, most)])
        partial, common = _most_alike(node, rest)
        if held + common < MIN_REUSED:
            return Match(self._root, [], None, 0)
        return Match(node, blocks, partial, held + common)

    def index(self, allocation: Allocation, tokens: Sequence[int], shareable: int) -> None:
        """Let others find the blocks of the first `shareable` tokens."""
        size, node = self.block_size, allocation.node
        if node is None or not node.is_indexed:  # evicted meanwhile: index them all again
            node, allocation.indexed = self._root, 0
        full, rest = divmod(shareable, size)
        for index in range(allocation.indexed, full):
            start = index * size
            node = self._insert(node, tuple(tokens[start : start + size]), allocation.blocks[index])
        allocation.node, allocation.indexed = node, full
        if rest:
            start = full * size
            self._insert(node, tuple(tokens[start : start + rest]), allocation.blocks[full])

    def _insert(self, parent: Node, tokens: Tokens, block: int) -> Node:
        """Return the node for these tokens: the one there is, or a new one with this block."""
        if (there := parent.children.get(tokens)) is not None:
            return there
        if (shorter := self._nodes.get(block)) is not None:  # indexed when it held fewer tokens
            self._remove(shorter)
        node = parent.children[tokens] = self._nodes[block] = Node(tokens, block, parent)
        return node

    def _evict(self, block: int) -> None:
        """Remove a block from the tree, and all that follow it."""
        for node in _with_descendants(self._nodes[block]):
            self._remove(node)
            if node.block != block:
                self.pool.discard(node.block)

    def _remove(self, node: Node) -> None:
        assert node.parent is not None
        del node.parent.children[node.tokens]
        del self._nodes[node.block]
        node.is_indexed = False


def _with_descendants(node: Node) -> list[Node]:
    """Return a node and all below it, children before their parents."""
    found = [node]
    for each in found:
        found += each.children.values()
    return found[::-1]


def _most_alike(node: Node, tokens: Tokens) -> tuple[int | None, int]:
    """Return the child's block with the longest common prefix, and that prefix's length."""
    block, most = None, 0
    for child in islice(reversed(node.children.values()), MAX_COMPARED):
        common = 0
        for a, b in zip(child.tokens, tokens, strict=False):
            if a != b:
                break
            common += 1
        if common > most:
            block, most = child.block, common
    return block, most
