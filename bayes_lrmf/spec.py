"""The declared statistical model: a frozen value read from a strict TOML file."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from bayes_lrmf.checks import InputError, one_of, positive, whole_number

__all__ = ["HyperPrior", "Penalty", "Spec", "default_spec", "named_specs", "read_spec"]

LIKELIHOODS = ("bernoulli", "binomial", "beta_binomial", "logit_normal")
LINEAGE_PRIORS = ("laplacian", "directed", "none")
ITEM_PRIORS = ("independent", "laplacian")
STEP_SHAPES = ("student_t", "mixture")
_MAX_BYTES = 32_000


@dataclass(frozen=True)
class HyperPrior:
    """A positive hyper-parameter: log-normal around `median`, or fixed at it when `log_sd` is 0.

    Attributes
    ----------
    median : float
        Prior median; what point estimates by MAP hold the hyper-parameter at.
    log_sd : float
        Standard deviation of its logarithm; 0 fixes it.
    """

    median: float
    log_sd: float = 0.0

    @property
    def learned(self) -> bool:
        """Whether the data inform it."""
        return self.log_sd > 0


@dataclass(frozen=True)
class Penalty:
    """The three weights of the point estimate of arXiv:2504.19811.

    Attributes
    ----------
    models, items, ridge : float
        ``lambda_M`` and ``lambda_X`` of the Laplacian terms, ``lambda_2`` of the squared norms.
    """

    models: float
    items: float
    ridge: float


_DIRECT = {"finetune": 1.0, "merge": 1.0, "adapter": 1.0, "quantized": 1.0, "ancestor": 1.0}


@dataclass(frozen=True)
class Spec:
    """A statistical model of responses given lineage; DESIGN: psi = a_u + b_i + m_u.x_i + c_ub.

    Attributes
    ----------
    name, description : str
    rank : int
        Number of factors K.
    likelihood : {"bernoulli", "binomial", "beta_binomial", "logit_normal"}
        Items of one trial are Bernoulli under each of them; "bernoulli" counts every cell once,
        as a fraction, whatever its trials. Counts are over-dispersed by a Beta under
        "beta_binomial", by normal noise on the log-odds of a cell under "logit_normal".
    lineage : {"laplacian", "directed", "none"}
        Prior of model factors: scaled Laplacian field, heavy-tailed steps from parents to
        children, or independent normals.
    item_prior : {"independent", "laplacian"}
        Prior of item loadings; "laplacian" needs an item-similarity graph.
    step_shape : {"student_t", "mixture"}
        Distribution of the sizes of steps under "directed": Student-t, or a mixture of normals of
        any variances, whose shares are learned.
    ability, benchmark_effects, intercept, loading_mean : bool
        Whether a_u, c_u,benchmark, b_i and a mean loading by benchmark are in the model.
        Benchmark effects apply to benchmarks of two items and more: for a single item they cannot
        be told from over-dispersion.
    relation_strength : mapping
        Weight of a Laplacian edge by relation.
    features : tuple of str
        Columns of the models table that move the prior mean of a model without parents, under
        "directed". Those that a table lacks are left out.
    kind : str
        Categorical column of the models table by which the mean step to a child differs.
    kappa, factor_sd, ability_sd, benchmark_sd, loading_mean_sd, intercept_mean_sd, intercept_sd,
    concentration, overdispersion_sd, step_sd, tail : HyperPrior
        `kappa`: shrinkage to zero relative to shrinkage along edges. `*_sd`: prior standard
        deviations (typical marginal ones under the scaled field). `concentration`: alpha + beta
        of the Beta-Binomial, and `overdispersion_sd`: standard deviation of the normal noise, both
        one per benchmark. Under "directed", `factor_sd` and `benchmark_sd` are about models without
        parents, `step_sd` is about steps to children, `tail` is the degrees of freedom of both
        where steps are Student-t.
        Loadings x_i have unit variance around the mean of their benchmark, so that `factor_sd`
        alone carries the scale.
    penalty : Penalty or None
        With it the density is exp(-objective of the paper); scales and hyper-priors do not apply.
    """

    name: str
    rank: int
    description: str = ""
    likelihood: str = "beta_binomial"
    lineage: str = "laplacian"
    item_prior: str = "independent"
    step_shape: str = "student_t"
    ability: bool = True
    benchmark_effects: bool = True
    intercept: bool = True
    loading_mean: bool = True
    relation_strength: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: dict(_DIRECT)
    )
    features: tuple[str, ...] = ()
    kind: str = ""
    kappa: HyperPrior = HyperPrior(0.2, 1.0)
    factor_sd: HyperPrior = HyperPrior(0.5, 0.7)
    ability_sd: HyperPrior = HyperPrior(0.5, 0.7)
    benchmark_sd: HyperPrior = HyperPrior(0.3, 0.7)
    loading_mean_sd: HyperPrior = HyperPrior(1.0)
    intercept_mean_sd: HyperPrior = HyperPrior(2.0)
    intercept_sd: HyperPrior = HyperPrior(1.0, 0.5)
    concentration: HyperPrior = HyperPrior(100.0, 1.5)
    overdispersion_sd: HyperPrior = HyperPrior(0.2, 1.0)
    step_sd: HyperPrior = HyperPrior(0.2)
    tail: HyperPrior = HyperPrior(4.0, 0.7)
    penalty: Penalty | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as nested plain values, the form that `Spec.from_dict` reads."""
        plain = dataclasses.asdict(self)
        plain["relation_strength"] = dict(self.relation_strength)
        plain["features"] = list(self.features)
        # Beside a penalty hyper-priors do not apply, and `from_dict` refuses them.
        for name in ["penalty"] if self.penalty is None else _hyper_names():
            del plain[name]
        return plain

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], *, where: str | None = None) -> Spec:
        """Check every key and value of a parsed TOML table and build the spec.

        Raises
        ------
        InputError
            For an unknown key (naming the nearest), a missing one, or a value of the wrong kind.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for key, value in table.items():
            one_of(key, fields, name="key", where=where)
            values[key] = _checked(key, fields[key], value, where)
        for key in ("name", "rank"):
            if key not in values:
                raise InputError(f"no {key!r}", where=where, fix=f"add a line {key} = ...")
        spec = cls(**values)
        if spec.penalty is not None:
            clash = sorted(set(values) & set(_hyper_names()))
            if clash:
                raise InputError(
                    f"{clash[0]} does not apply beside [penalty]", where=where, fix="remove it"
                )
        return spec


def _hyper_names() -> list[str]:
    return [f.name for f in dataclasses.fields(Spec) if isinstance(f.default, HyperPrior)]


def _checked(key: str, field: dataclasses.Field[Any], value: Any, where: str | None) -> Any:
    if key == "rank":
        return whole_number(value, name="rank", where=where)
    if key == "features":
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise InputError(f"features is {value!r}", where=where, fix="give a list of columns")
        return tuple(value)
    if key in ("name", "description", "kind"):
        if not isinstance(value, str):
            raise InputError(f"{key} is {value!r}", where=where, fix="give a text in quotes")
        return value
    choices = {
        "likelihood": LIKELIHOODS,
        "lineage": LINEAGE_PRIORS,
        "item_prior": ITEM_PRIORS,
        "step_shape": STEP_SHAPES,
    }
    if key in choices:
        return one_of(value, choices[key], name=key, where=where)
    if isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise InputError(f"{key} is {value!r}", where=where, fix="give true or false")
        return value
    if not isinstance(value, Mapping):
        if isinstance(field.default, HyperPrior):
            return HyperPrior(positive(value, name=key, where=where))
        raise InputError(f"{key} is {value!r}", where=where, fix=f"make [{key}] a table")
    if key == "relation_strength":
        for relation, strength in value.items():
            one_of(relation, _DIRECT, name="relation", where=where)
            positive(strength, name=f"relation_strength.{relation}", where=where)
        return {**_DIRECT, **{k: float(v) for k, v in value.items()}}
    kind: type = Penalty if key == "penalty" else HyperPrior
    names = [f.name for f in dataclasses.fields(kind)]
    for part, number in value.items():
        one_of(part, names, name=f"key of {key}", where=where)
        if part not in ("median", "ridge") and number == 0 and not isinstance(number, bool):
            continue
        positive(number, name=f"{key}.{part}", where=where)
    needed = names if kind is Penalty else ["median"]
    for part in needed:
        if part not in value:
            raise InputError(f"{key} has no {part!r}", where=where, fix=f"add {part} to {key}")
    return kind(**{part: float(number) for part, number in value.items()})


def _folder() -> Any:
    packaged = resources.files("bayes_lrmf") / "models"
    beside = Path(__file__).resolve().parent.parent / "models"
    return packaged if packaged.is_dir() else beside


def named_specs() -> list[str]:
    """Return the names of the specs that come with the package."""
    return sorted(p.name[: -len(".toml")] for p in _folder().iterdir() if p.name.endswith(".toml"))


def default_spec(method: str) -> str:
    """Return the named spec that is meant where only the method is: the best that it fits well.

    Parameters
    ----------
    method : {"map", "svi", "nuts", "vb"}
    """
    return "lrmf" if method == "vb" else "laplacian"


def read_spec(name_or_path: str | os.PathLike[str]) -> Spec:
    """Read a spec by its name among `named_specs`, or from a TOML file.

    Parameters
    ----------
    name_or_path : str or path-like
        What ends in .toml, or names a folder, is a path.

    Raises
    ------
    InputError
        If there is no such name or file, the TOML is broken or larger than 32 kB, or a key
        or value is not valid.
    """
    text_name = os.fspath(name_or_path)
    names = named_specs()
    if text_name in names:
        source, where = _folder() / f"{text_name}.toml", f"spec {text_name}"
    elif text_name.endswith(".toml") or os.sep in text_name:
        source, where = Path(text_name), text_name
        if not source.is_file():
            raise InputError("spec file not found", where=where, fix="check the path")
    else:
        one_of(text_name, names, name="spec")
    try:
        if len(source.read_bytes()) > _MAX_BYTES:
            raise InputError("larger than 32 kB", where=where, fix="give a spec alone")
        table = tomllib.loads(source.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError("not a UTF-8 text file", where=where, fix="save it as UTF-8") from error
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=where, fix="change its permissions"
        ) from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        # Nesting without end, and numbers of thousands of digits, have errors of their own.
        why = error if isinstance(error, tomllib.TOMLDecodeError) else type(error).__name__
        raise InputError(f"not valid TOML ({why})", where=where, fix="mend that line") from error
    return Spec.from_dict(table, where=where)
