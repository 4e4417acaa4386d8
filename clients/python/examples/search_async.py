"""Asks several questions at the same time. MEMORY_URL and MEMORY_KEY name the server and a key with the scope write."""

import asyncio
import os

from chat_memory_client import AsyncChatMemory, Document

QUESTIONS = ("경복궁의 정문은 무엇인가요?", "경복궁은 무슨 요일에 쉬나요?")


async def main() -> None:
    async with AsyncChatMemory(os.environ["MEMORY_URL"], os.environ.get("MEMORY_KEY")) as memory:
        bot = await memory.create_bot("서울 안내 봇", "example_async")
        await memory.insert(
            bot.chat_bot_id, Document("경복궁", ["광화문은 경복궁의 정문이다.", "경복궁은 화요일에 쉰다."])
        )
        answers = await asyncio.gather(*(memory.search(bot.chat_bot_id, one, limit=1) for one in QUESTIONS))
        for question, (best,) in zip(QUESTIONS, answers, strict=True):
            print(question, best.text)
        await memory.delete_bot(bot.chat_bot_id)


asyncio.run(main())
