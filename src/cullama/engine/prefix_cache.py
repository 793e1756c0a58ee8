"""What is in which block: prompts that begin alike are read once.

A tree in which each node is one cache block and the tokens whose keys and values it holds; its
path from the root is everything before them. A prompt walks down the tree as far as it agrees, and
starts with the blocks it met: so does the second turn of a chat, a preempted sequence that comes
back, and each further answer to the same prompt. Tokens are compared, not their hashes: there are
no false hits. (Blocks with a table of contents as in Kwon et al., "PagedAttention", SOSP 2023; a
tree over them as in Zheng et al., "SGLang", NeurIPS 2024.)

Full blocks are shared. One that agrees in part is copied, and the copy written on. A prompt is
listed here once it has led to a token, an answer when it ends; what led to no number is never
shared. Integers only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias

from .blocks import BlockPool
from .sequence import Sequence

Tokens: TypeAlias = tuple[int, ...]

# Of many blocks that may follow, so many, the newest, are looked at for a beginning in common.
MOST_COMPARED = 16

# Fewer tokens than these are read faster than found: most texts begin with the same one.
FEWEST_REUSED = 8


@dataclass(eq=False, slots=True)
class Node:
    """A block whose first tokens are these, after all tokens on the way here."""

    tokens: Tokens
    block: int
    parent: Node | None
    children: dict[Tokens, Node] = field(default_factory=dict)
    is_listed: bool = True


class Match(NamedTuple):
    """What the cache holds of a text."""

    node: Node  # where its full blocks end
    blocks: list[int]  # full ones, to be shared
    partial: int | None  # a block that begins as the text goes on, to be copied
    tokens: int  # held in all


class Copy(NamedTuple):
    source: int
    target: int


class PrefixCache:
    def __init__(self, blocks: int, block_size: int) -> None:
        self.pool = BlockPool(blocks, self._forget)
        self.block_size = block_size
        self._root = Node((), -1, None)
        self._nodes: dict[int, Node] = {}  # by block

    # --- blocks for a sequence ---------------------------------------------------------------

    def open(self, sequence: Sequence, spare: int = 0) -> list[Copy] | None:
        """Give a sequence blocks for all its tokens, those that hold some of them first.

        Returns what has to be copied before the next pass, or None where there is no room for it
        and `spare` blocks for others to grow into.
        """
        match = self.match(sequence.tokens)
        self.pool.hold(match.blocks)
        count = self.blocks_for(len(sequence.tokens)) - len(match.blocks)
        if count + spare > self.pool.available:
            self.pool.release(reversed(match.blocks), self._is_listed)
            return None
        room = self.blocks_for(sequence.longest) - len(match.blocks) - count
        fresh = self.pool.allocate(count, match.blocks[-1] if match.blocks else None, room)
        assert fresh is not None
        sequence.use_blocks(match.blocks + fresh, self.block_size)
        sequence.computed = match.tokens
        sequence.sound = len(match.blocks) * self.block_size
        sequence.listed, sequence.node = len(match.blocks), match.node
        if match.partial is None or match.partial == fresh[0]:  # it may have been given to us
            return []
        return [Copy(match.partial, fresh[0])]

    def grow(self, sequence: Sequence, tokens: int) -> bool:
        """Room for so many tokens in all; False, and nothing changed, where there is none."""
        missing = self.blocks_for(tokens) - len(sequence.blocks)
        if missing <= 0:
            return True
        room = self.blocks_for(sequence.longest) - len(sequence.blocks) - missing
        more = self.pool.allocate(missing, sequence.blocks[-1], room)
        if more is None:
            return False
        sequence.use_blocks([*sequence.blocks, *more], self.block_size)
        return True

    def close(self, sequence: Sequence) -> None:
        """Take a sequence's blocks; what is sound in them stays for whoever asks for it."""
        if sequence.error is None:
            self.list_blocks(sequence)
        if sequence.blocks:
            self.pool.withdraw(sequence.blocks[-1])
        # The last first: a text is forgotten from its end.
        self.pool.release(reversed(sequence.blocks), self._is_listed)
        sequence.use_blocks([], self.block_size)
        sequence.computed = sequence.sound = sequence.listed = 0
        sequence.node = None

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def clear(self) -> None:
        """Forget all that is kept."""
        for node in list(self._root.children.values()):
            for each in _with_descendants(node):
                self._unlist(each)
                self.pool.discard(each.block)

    # --- the tree ----------------------------------------------------------------------------

    def match(self, tokens: list[int]) -> Match:
        """The longest beginning of a text in the cache, its last token left out.

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
        if held + common < FEWEST_REUSED:
            return Match(self._root, [], None, 0)
        return Match(node, blocks, partial, held + common)

    def list_blocks(self, sequence: Sequence) -> None:
        """Let others find what a sequence has, as far as it is sound: led to a token drawn."""
        size, tokens = self.block_size, sequence.tokens
        node = sequence.node
        if node is None or not node.is_listed:  # given away meanwhile: list them all anew
            node, sequence.listed = self._root, 0
        full, rest = divmod(sequence.sound, size)
        for index in range(sequence.listed, full):
            start = index * size
            node = self._list(node, tuple(tokens[start : start + size]), sequence.blocks[index])
        sequence.node, sequence.listed = node, full
        if rest:
            start = full * size
            self._list(node, tuple(tokens[start : start + rest]), sequence.blocks[full])

    def _list(self, parent: Node, tokens: Tokens, block: int) -> Node:
        """The node for these tokens: the one there is, or this block's."""
        if (there := parent.children.get(tokens)) is not None:
            return there
        if (shorter := self._nodes.get(block)) is not None:  # listed when it held fewer tokens
            self._unlist(shorter)
        node = parent.children[tokens] = self._nodes[block] = Node(tokens, block, parent)
        return node

    def _is_listed(self, block: int) -> bool:
        return block in self._nodes

    def _forget(self, block: int) -> None:
        """Nobody finds a block any more, nor what follows it."""
        for node in _with_descendants(self._nodes[block]):
            self._unlist(node)
            if node.block != block:
                self.pool.discard(node.block)

    def _unlist(self, node: Node) -> None:
        assert node.parent is not None
        del node.parent.children[node.tokens]
        del self._nodes[node.block]
        node.is_listed = False


def _with_descendants(node: Node) -> list[Node]:
    """Children before their parents."""
    found = [node]
    for each in found:
        found += each.children.values()
    return found[::-1]


def _most_alike(node: Node, tokens: Tokens) -> tuple[int | None, int]:
    """The child's block that begins most like these tokens, and how many it has in common."""
    block, most = None, 0
    for child in islice(reversed(node.children.values()), MOST_COMPARED):
        common = _in_common(child.tokens, tokens)
        if common > most:
            block, most = child.block, common
    return block, most


def _in_common(one: Tokens, other: Tokens) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
