#pragma version 0.4.3
#pragma evm-version london
#pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Heads of ledgers, each with the time of the block that it came in.
@notice A head is a size and a root. Writers are fixed when the contract is made, and nobody can change it, its heads
    or its writers afterwards. Each writer has ledgers of its own: none can block, extend or confuse those of another.
    What privae writes is blinded: ids and roots mean nothing without the salt that is kept with the ledger.
"""

struct Head:
    size: uint256
    root: bytes32
    time: uint256  # seconds since 1970, as the block says
    number: uint256  # of the block: whoever reads a head finds there the transaction that its writer signed

event Anchored:
    writer: indexed(address)
    ledger: indexed(bytes32)
    size: uint256
    root: bytes32

writers: public(HashMap[address, bool])
heads: HashMap[address, HashMap[bytes32, DynArray[Head, 2**32]]]


@deploy
def __init__(writers: DynArray[address, 64]):
    for writer: address in writers:
        self.writers[writer] = True


@external
def anchor(ledger: bytes32, size: uint256, root: bytes32):
    assert self.writers[msg.sender], "not a writer"
    count: uint256 = len(self.heads[msg.sender][ledger])
    last: uint256 = 0
    if count > 0:
        last = self.heads[msg.sender][ledger][count - 1].size
    assert size > last, "sizes only grow"
    self.heads[msg.sender][ledger].append(Head(size=size, root=root, time=block.timestamp, number=block.number))
    log Anchored(writer=msg.sender, ledger=ledger, size=size, root=root)


@external
@view
def count(writer: address, ledger: bytes32) -> uint256:
    return len(self.heads[writer][ledger])


@external
@view
def at(writer: address, ledger: bytes32, index: uint256) -> Head:
    return self.heads[writer][ledger][index]


@external
@view
def head(writer: address, ledger: bytes32) -> Head:
    return self.heads[writer][ledger][len(self.heads[writer][ledger]) - 1]
