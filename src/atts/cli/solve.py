"""``atts solve``: one question, printed as it is written."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atts.api.solve import refuse_half_a_pair
from atts.cli import ending
from atts.cli.commands import new_app
from atts.cli.options import ConfigFile, Settings
from atts.cli.terminal import EXIT_CODES, FAILED, echo_json, err, out, say
from atts.config import load_config
from atts.solving.listening import ChainDone, Piece
from atts.solving.question import Question, as_problem, with_overrides
from atts.solving.solution import Solution
from atts.solving.solver import Solver
from atts.text import visible
from atts.types import Author, Message

if TYPE_CHECKING:
    from rich.console import Console

STYLES: dict[Author, str] = {"draft": "cyan", "target": "magenta"}
"""The colours of the text's authors, in a terminal; thought is dim."""

EXAMPLES = f"""Examples:

    atts solve "Ivan has 43 points. He wins 8 rounds of 9 points each. How many has he now?"
    atts solve "..." --samples 4 --set take_over.rate=0.2
    atts solve "..." --draft Qwen/Qwen3-1.7B --target Qwen/Qwen3-8B
    atts solve "..." --config my.yaml --json

Without models it takes the two small ones that come with atts, which know arithmetic stories alone.

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=EXAMPLES)
def solve(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to solve.")],
    config_file: ConfigFile = None,
    settings: Settings = None,
    draft: Annotated[
        str | None,
        typer.Option(
            "--draft", metavar="MODEL", help="A folder or Hugging Face id; sets draft.model."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="MODEL", help="The target; sets target.model."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Chains; sets samples.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", help="The system message; sets prompt.system."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Most tokens of a chain.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and nothing before it.")
    ] = False,
) -> None:
    """Solve one question, printed as it is written, and vote.

    The first chain is printed as it comes, in a terminal with what the draft wrote in one colour
    and what the target wrote in another; then a line for each other chain, and the votes. The last
    line is the answer.
    """
    config = load_config(config_file, settings)
    named: dict[Author, str | None] = {"draft": draft, "target": target}
    changes: dict[str, Any] = {
        author: config.options_of(author).model_copy(update={"model": model})
        for author, model in named.items()
        if model is not None
    }
    config = with_overrides(config.model_copy(update=changes), samples=samples)
    refuse_half_a_pair(config, draft is not None, target is not None)
    problem = as_problem(question)
    if system is not None:
        messages = [Message(role="system", content=system)] if system else []
        messages.append(Message(role="user", content=question))
        problem = as_problem(messages)
    asked = Question(problem=problem, config=config, max_tokens=max_tokens)
    solution = ending.run(_solve(asked, None if as_json else out()))
    if as_json:
        echo_json(as_tree(solution))
    else:
        _print_votes(solution, out())
    for error in dict.fromkeys(solution.errors):
        say(f"chains failed: {error}", style="red")
    if solution.errors:
        raise typer.Exit(FAILED)


async def _solve(question: Question, console: "Console | None") -> Solution:
    async with AsyncExitStack() as stack:
        with err().status("opening the models"):  # shown in a terminal alone
            solver = await stack.enter_async_context(Solver(question.config))
        asked = await stack.enter_async_context(solver.ask(question))
        others: list[str] = []
        shown = False  # whether the first chain has been printed to its end
        async for event in asked:
            if console is None:
                continue
            if isinstance(event, Piece):
                if event.sample == 0:
                    style = STYLES[event.author] + (" dim" if event.in_thought else "")
                    console.print(
                        visible(event.text), style=style, markup=False, emoji=False, end=""
                    )
            elif event.sample == 0:
                console.print("\n")
                shown = True
            else:
                others.append(_line(event))
            if shown:  # lines of others must not come between its pieces
                for line in others:
                    console.print(visible(line), markup=False, emoji=False)
                others.clear()
        return await asked.solution()


def _line(done: ChainDone) -> str:
    chain = done.chain
    answer = "no answer" if chain.answer is None else chain.answer
    return f"chain {chain.sample}: {answer} ({chain.error or chain.end})"


def _print_votes(solution: Solution, console: "Console") -> None:
    console.print(f"\n{len(solution.done)} chains, ", end="")
    for author, count in solution.tokens.items():
        if count:
            console.print(f"{count} tokens by the {author}", style=STYLES[author], end=", ")
    console.print(f"{solution.seconds:.1f} s")
    for vote in solution.votes:
        console.print(f"{len(vote.chains):4}  {visible(vote.answer)}", markup=False, emoji=False)
    answer = "no answer" if solution.answer is None else visible(solution.answer)
    console.print(answer, style="bold", markup=False, emoji=False)


def as_tree(solution: Solution) -> dict[str, Any]:
    """A solution as JSON."""
    return {
        "question": solution.problem.question,
        "method": solution.method,
        "answer": solution.answer,
        "votes": [{"answer": vote.answer, "chains": list(vote.chains)} for vote in solution.votes],
        "tokens": solution.tokens,
        "take_over_rate": solution.take_over_rate,
        "seconds": solution.seconds,
        "chains": [
            {
                "sample": done.sample,
                "answer": done.chain.answer,
                "end": done.chain.end,
                "error": done.chain.error,
                "thought": done.thought,
                "reply": done.reply,
                "segments": [
                    {"author": segment.author, "text": segment.text}
                    for segment in done.chain.segments
                    if segment.kept and segment.text
                ],
            }
            for done in solution.done
        ],
    }
