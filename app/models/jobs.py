"""Request and response bodies of /jobs."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from app.models.base import Request, Response
from app.models.collection import EXAMPLE_BOT
from app.models.fields import INT32_MAX, AccountName, ChunkText, DocId, ExternalId, Integral, Title
from app.schemas.operation_rows import JobKind, JobState, JobUnit

MAX_QUESTIONS = 1_000
OPTIONS: Final[dict[JobKind, frozenset[str]]] = {
    "verify": frozenset({"vectors", "sample"}),
    "repair": frozenset({"vectors", "sample"}),
    "rebuild": frozenset(),
    "reembed": frozenset(),
    "reindex": frozenset({"titles"}),
    "tune": frozenset({"questions", "apply"}),
}
FOR_ONE_BOT: Final[frozenset[JobKind]] = frozenset({"rebuild", "tune"})


class JobQuestion(Request):
    """A question and its answer: a document, or a text that the right chunk contains. Exactly one of the four."""

    question: ChunkText
    doc_id: DocId | None = None
    external_id: ExternalId | None = None
    title: Title | None = None
    passage: ChunkText | None = None

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if sum(one is not None for one in (self.doc_id, self.external_id, self.title, self.passage)) != 1:
            raise PydanticCustomError("one_answer", "should have one of doc_id, external_id, title and passage")
        return self


class StartJob(Request):
    model_config = ConfigDict(json_schema_extra={"examples": [{"kind": "verify", "chat_bot_id": EXAMPLE_BOT}]})

    account_name: AccountName | None = None
    kind: JobKind = Field(description="What to do, as the command of `python -m app.cli` with this name.")
    chat_bot_id: UUID | None = Field(None, description="Omitted: all bots of all accounts, for operators only.")
    vectors: Annotated[bool, Strict()] | None = Field(
        None, description="verify and repair: embed texts again and compare the vectors too."
    )
    sample: Annotated[int, Strict(), Field(ge=1, le=INT32_MAX), Integral] | None = Field(
        None, description="verify and repair, with vectors: only so many texts of each bot, drawn at random."
    )
    titles: Annotated[bool, Strict()] | None = Field(
        None, description="reindex: whether titles find chunks by their words. Default: as before."
    )
    questions: Annotated[list[JobQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)] | None = Field(
        None, description="tune: questions with known answers."
    )
    apply: Annotated[bool, Strict()] | None = Field(None, description="tune: make the best setting the bot's default.")

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        given = {name for name in frozenset[str]().union(*OPTIONS.values()) if getattr(self, name) is not None}
        if foreign := given - OPTIONS[self.kind]:
            raise PydanticCustomError(
                "foreign_option", "{kind} has no option {name}", {"kind": self.kind, "name": min(foreign)}
            )
        if self.kind == "tune" and self.questions is None:
            raise PydanticCustomError("no_questions", "tune needs questions")
        if self.sample is not None and not self.vectors:
            raise PydanticCustomError("no_vectors", "sample needs vectors")
        if self.kind in FOR_ONE_BOT and self.chat_bot_id is None:
            raise PydanticCustomError("no_bot", "{kind} needs chat_bot_id", {"kind": self.kind})
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The options that were given, as JSON."""
        return self.model_dump(mode="json", include=set(OPTIONS[self.kind]), exclude_none=True)


class JobError(Response):
    code: str = Field(description="As in the response to a call that fails in this way.")
    detail: str


class JobInfo(Response):
    job_id: UUID
    kind: JobKind
    chat_bot_id: UUID | None = Field(description="null: all bots.")
    state: JobState = Field(description="interrupted: its server died or was stopped. Start the same job again.")
    done: int = Field(description="How many units are done.")
    total: int | None = Field(description="Of how many; null while that is not known.")
    unit: JobUnit
    cancel_requested: bool
    created_at: datetime
    ended_at: datetime | None
    result: dict[str, Any] | None = Field(description="null until the job has succeeded. Its members depend on kind.")
    error: JobError | None = Field(description="null unless the job has failed.")


class JobAnswer(JobInfo):
    status: Literal["success"] = "success"


class JobList(Response):
    status: Literal["success"] = "success"
    jobs: list[JobInfo]
