"""Stores two documents and searches them. MEMORY_URL and MEMORY_KEY name the server and a key with the scope write."""

import os

from chat_memory_client import ChatMemory, Document

with ChatMemory(os.environ["MEMORY_URL"], os.environ.get("MEMORY_KEY")) as memory:
    bot = memory.create_bot("서울 안내 봇", "example_search")
    memory.insert_many(
        bot.chat_bot_id,
        [
            Document("경복궁", ["광화문은 경복궁의 정문이다.", "경복궁은 화요일에 쉰다."], metadata={"language": "ko"}),
            Document("Han River", ["The Han flows through Seoul."], metadata={"language": "en"}),
        ],
    )
    korean = {"type": "eq", "key": "metadata.language", "value": "ko"}
    for result in memory.search(bot.chat_bot_id, "경복궁은 무슨 요일에 쉬나요?", limit=1, filter=korean):
        print(result.title, result.text)
    memory.delete_bot(bot.chat_bot_id)
