"""GenerationPort in plain memory."""

from collections.abc import Sequence
from uuid import UUID, uuid4

from app.schemas.operation_rows import GenerationBlock, GenerationState
from tests.doubles.memory_store.tables import Tables


class MemoryGenerationStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def state(self) -> GenerationState:
        tables = self._tables
        return GenerationState(
            tables.installation_id,
            tables.database,
            bool(tables.blocks) and not tables.restored,
            tables.first_in_block,
            tables.last_in_block,
            tables.last_generation,
            sorted(tables.blocks, key=lambda block: block.first),
        )

    async def known_collections(self) -> set[str]:
        names = {bot.collection for bot in self._tables.bots.values()}
        names |= {bot.next.collection_name for bot in self._tables.bots.values() if bot.next}
        drops = (saga for saga in self._tables.sagas.values() if saga.operation == "drop_collection")
        return names | {saga.collection_name for saga in drops if saga.collection_name}

    async def use(self, block: GenerationBlock, older: Sequence[GenerationBlock] = ()) -> None:
        tables = self._tables
        usable = bool(tables.blocks) and not tables.restored
        if usable and tables.last_in_block >= block.first:
            return
        follows = usable and tables.last_in_block + 1 == block.first
        self._use(tables.first_in_block if follows else block.first, block, older)

    async def take_over(
        self,
        block: GenerationBlock,
        installation_id: UUID,
        abandon: Sequence[str],
        kept: Sequence[GenerationBlock],
    ) -> int:
        self._use(block.first, block, ())
        self._tables.installation_id = installation_id
        abandoned = 0
        for bot in self._tables.bots.values():
            documents = self._tables.partition(bot.bot_id).documents.values()
            own = all(any(one.first <= row.generation <= one.last for one in kept) for row in documents)
            if bot.collection in abandon and not (kept and own):
                bot.milvus_collection = f"r{self._tables.next_generation()}_{uuid4().hex}"
                bot.forget_writers()
                abandoned += 1
        return abandoned

    def _use(self, first: int, block: GenerationBlock, older: Sequence[GenerationBlock]) -> None:
        tables = self._tables
        known = {one.block_id for one in tables.blocks}
        tables.blocks += [one for one in (*older, block) if one.block_id not in known]
        for bot in tables.bots.values():
            if bot.embedding_model and tables.last_generation < first:
                tables.doubts[bot.bot_id] = (first, tables.now())
                tables.checks.pop(bot.bot_id, None)
        tables.first_in_block, tables.last_in_block = first, block.last
        tables.last_generation = max(tables.last_generation, first - 1)
        tables.restored = False
