from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelAPI, ModelOutput, get_model, modelapi
from inspect_ai.scorer import exact, includes
from inspect_ai.solver import generate


@modelapi(name="toy")
class Toy(ModelAPI):
    """Answers with the last word of the question, in capitals if the model is called loud."""

    async def generate(self, input, tools, tool_choice, config):
        word = input[-1].text.split()[-1]
        if word == "crash":
            raise ValueError("no answer")
        word = word.upper() if self.model_name == "loud" else word
        return ModelOutput.from_content(self.model_name, word + " indeed")


def samples(words):
    return MemoryDataset(
        [Sample(id=f"w{i}", input=f"Say {w}", target=w) for i, w in enumerate(words)]
    )


@task
def words(who="quiet"):
    return Task(
        model=get_model(f"toy/{who}"),
        dataset=samples(["one", "2", "three", "crash", "five"]),
        solver=generate(),
        scorer=[includes(ignore_case=False), exact()],
        fail_on_error=False,
    )


@task
def again(who="quiet"):
    return Task(
        model=get_model(f"toy/{who}"),
        dataset=samples(["one", "2"]),
        solver=generate(),
        scorer=includes(ignore_case=False),
        epochs=2,
    )
