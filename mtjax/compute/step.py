"""The only place that jits a model: the train state, its initialisation, one training step, one prediction step.

State and parameters are plain dictionaries; a parameter's key is its path, e.g. "backbone/layers/0/up/kernel". Flax NNX
modules are taken apart once, without arrays, and put together again inside jit: that costs microseconds a step in host
time where `nnx.jit` costs milliseconds.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mtjax.compute import sharding
from mtjax.compute.optim import Optimizer
from mtjax.types import Batch, Params, Scalars, Settling, Task, random_streams

Asked = Callable[[nnx.Module, Batch], Mapping[str, jax.Array]]  # arrays with leading dimension b
State = dict[str, Any]  # step, params, rest, opt, plateau, ema, skipped: see `Program.init`
DROPOUT, AUGMENT = 0, 1  # streams folded from the step's key


class Net:
    """An assembled module as pure functions over flat dictionaries of arrays."""

    def __init__(
        self,
        make: Callable[[jax.Array], nnx.Module],
        trainable: nnx.filterlib.Filter,
        settle: Callable[[nnx.Module], None] | None = None,
    ):
        """`settle` computes, once, what follows from the first weights (text prototypes, say)."""
        self._make, self._trainable, self._settle = make, trainable, settle
        abstract = nnx.eval_shape(make, jax.random.key(0))
        self._graph, params, rest = nnx.split(abstract, trainable, ...)
        self._params, self._rest = _flatten(params), _flatten(rest)
        # Running statistics follow the parameters, so what is averaged of those is averaged of these too.
        self.statistics = tuple(k for k, (_, variable) in self._rest.items() if isinstance(variable, nnx.BatchStat))

    def init(self, key: jax.Array, weights: Params | None = None) -> tuple[Params, Params]:
        """Trainable parameters and everything else (frozen parameters, batch statistics); `weights` replace random ones."""
        module = self._make(key)
        if weights:
            nnx.update(module, nnx.from_flat_state(
                [(path, variable.replace(weights[name])) for name, (path, variable) in _flatten(nnx.state(module)).items()
                 if name in weights]
            ))  # fmt: skip
        if self._settle is not None:
            self._settle(module)
        _, params, rest = nnx.split(module, self._trainable, ...)
        return _values(_flatten(params)), _values(_flatten(rest))

    def merge(self, params: Params, rest: Params) -> nnx.Module:
        return nnx.merge(self._graph, _fill(self._params, params), _fill(self._rest, rest), copy=True)

    def rest_of(self, module: nnx.Module) -> Params:
        return _values(_flatten(nnx.split(module, self._trainable, ...)[2]))


def _flatten(state: nnx.State) -> dict[str, tuple[tuple, nnx.Variable]]:
    return {"/".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}


def _values(flat: Mapping[str, tuple[tuple, nnx.Variable]]) -> Params:
    return {name: variable.get_value() for name, (_, variable) in flat.items()}


def _fill(template: Mapping[str, tuple[tuple, nnx.Variable]], values: Params) -> nnx.State:
    return nnx.from_flat_state([(path, variable.replace(values[name])) for name, (path, variable) in template.items()])


class Program:
    """Everything compiled for one run: `init`, `train_step`, `predict_step`."""

    def __init__(
        self,
        *,
        model: Callable[[nnx.Rngs], nnx.Module],
        task: Task,
        prepare: Callable[..., Batch],
        optimizer: Optimizer,
        mesh: Mesh,
        rules: sharding.Rules = (),
        seed: int,
        total_steps: int,
        accumulate: int = 1,
    ):
        """
        Args:
          model: makes the backbone from random keys.
          prepare: `(batch, train=, key=) -> batch` on the device (`Data.prepare`).
          accumulate: micro-batches a step; their gradients are averaged.
        """
        self.task, self.optimizer, self.mesh, self.accumulate = task, optimizer, mesh, accumulate
        self._prepare = prepare
        # Arguments of what is compiled, not constants in it: runs of several seeds then are one program in JAX's cache.
        self._init_key, self._step_key = jax.random.split(jax.random.key(seed))

        def make(key: jax.Array) -> nnx.Module:
            rngs = random_streams(params=key)
            return task.assemble(model(rngs), rngs=rngs)

        self.make = make
        self.net = Net(make, task.trainable, task.settle if isinstance(task, Settling) else None)
        self.schedule = optimizer.learning_rate(total_steps)
        self._tx = optimizer.transform(total_steps)
        init = jax.jit(self._init)  # traced once, for its shapes and for what is compiled
        self.shapes = init.eval_shape({}, self._init_key)
        everything = self.shapes["params"] | self.shapes["rest"]
        specs = sharding.param_specs(everything, mesh, rules)
        self.shardings = sharding.state_shardings(self.shapes, specs, mesh)
        self.batch_sharding = NamedSharding(mesh, sharding.BATCH)
        replicated = NamedSharding(mesh, P())
        self._jit_init = jax.jit(init, out_shardings=self.shardings)
        self._jit_train_step = jax.jit(
            self._train_step, out_shardings=(self.shardings, replicated), donate_argnums=0, static_argnames="fetch"
        )
        self._jit_predict = jax.jit(self.predict, out_shardings=self.batch_sharding, static_argnames="ask")
        self.update_plateau = jax.jit(
            lambda plateau, loss: optimizer.update_plateau(plateau, loss), out_shardings=replicated
        )

    @functools.cached_property
    def num_params(self) -> int:
        """Trainable ones."""
        return sum(leaf.size for leaf in self.shapes["params"].values())

    def init(self, weights: Params | None = None) -> State:
        """A fresh state; `weights` (path → array) take the place of random parameters, trainable or frozen."""
        return self._jit_init(dict(weights or {}), self._init_key)

    def train_step(
        self, state: State, batch: Any, *, fetch: Callable[[Any], Batch] | None = None
    ) -> tuple[State, Scalars]:
        """One update; `state` is donated. `fetch` turns `batch` into a batch inside jit (a cursor into a table on the device).

        A step whose loss, gradient or result is not finite changes nothing but the counters.
        """
        return self._jit_train_step(state, batch, self._step_key, fetch=fetch)

    def lower_train_step(self, state: State, batch: Mapping[str, Any]) -> jax.stages.Lowered:
        """`train_step` for shapes, to be compiled and looked at."""
        return self._jit_train_step.lower(state, batch, self._step_key)

    def predict_step(
        self, state: State, batch: Mapping[str, Any], copy: Any = None, *, ask: Asked | None = None
    ) -> Mapping[str, jax.Array]:
        """`predict`, compiled; `copy` may be a number of NumPy's."""
        return self._jit_predict(state, batch, copy, None if copy is None else self._step_key, ask=ask)

    def _init(self, weights: Params, key: jax.Array) -> State:
        """
        - step: int32, how many steps were taken.
        - params: trainable; rest: frozen parameters and batch statistics; ema: moving average of params and of batch
          statistics, {} if off.
        - opt: optax state; plateau: `Optimizer.init_plateau`.
        - skipped: how many steps had a non-finite loss or gradient and were not applied, and the last such step.
        """
        params, rest = self.net.init(key, weights)
        return {
            "step": jnp.int32(0),
            "params": params,
            "rest": rest,
            "opt": self._tx.init(params),
            "plateau": self.optimizer.init_plateau(),
            "ema": self._averaged(params, rest) if self.optimizer.ema else {},
            "skipped": {"count": jnp.int32(0), "step": jnp.int32(-1)},
        }

    def _train_step(self, state: State, batch: Any, key: jax.Array, *, fetch: Callable[[Any], Batch] | None = None):
        if fetch is not None:
            batch = jax.lax.with_sharding_constraint(fetch(batch), self.batch_sharding)
        key = jax.random.fold_in(key, state["step"])
        batch = self._prepare(batch, train=True, key=jax.random.fold_in(key, AUGMENT))
        dropout = jax.random.fold_in(key, DROPOUT)
        loss, scalars, rest, grads = self._gradients(state, batch, dropout)
        norm = optax.global_norm(grads)
        factor = state["plateau"]["factor"]
        with jax.numpy_dtype_promotion("standard"):  # optax mixes int steps and floats; our own code is strict in tests
            search = {}
            if self.optimizer.searches:  # along a line: the loss of other parameters on this very batch

                def loss_at(params: Params) -> jax.Array:
                    return self._loss(params, state["rest"], batch, dropout)[0]

                search = {"value": loss, "grad": grads, "value_fn": loss_at}
            updates, opt = self._tx.update(grads, state["opt"], state["params"], **search)
            lr = factor * self.schedule(state["step"])
        params = jax.tree.map(lambda p, u: p + factor * u, state["params"], updates)
        decay, newest = self.optimizer.ema, self._averaged(params, rest)
        ema = {k: decay * old + (1 - decay) * newest[k] for k, old in state["ema"].items()}
        size = optax.global_norm(ema or params)  # what predicts: a step may be finite and yet lead out of the numbers
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(size)
        old = {k: state[k] for k in ("params", "rest", "opt", "ema")}
        new = {"params": params, "rest": rest, "opt": opt, "ema": ema}
        skipped = {
            "count": state["skipped"]["count"] + jnp.where(finite, 0, 1),
            "step": jnp.where(finite, state["skipped"]["step"], state["step"]),
        }
        metrics = scalars | {
            "loss": loss,
            "grad_norm": norm,
            "lr": lr,
            "skipped": skipped["count"],
        }
        kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        return kept | {"step": state["step"] + 1, "plateau": state["plateau"], "skipped": skipped}, metrics

    def _averaged(self, params: Params, rest: Params) -> Params:
        return params | {k: rest[k] for k in self.net.statistics}

    def _loss(self, params: Params, rest: Params, batch: Batch, key: jax.Array):
        module = self.net.merge(params, rest)
        loss, scalars = self.task.loss(module, batch, rngs=random_streams(dropout=key))
        return loss, (scalars, self.net.rest_of(module))

    def _gradients(self, state: State, batch: Batch, key: jax.Array):
        """Mean loss, scalars, new rest and gradients, over `accumulate` micro-batches."""

        gradient = jax.value_and_grad(self._loss, has_aux=True)
        if self.accumulate == 1:
            (loss, (scalars, rest)), grads = gradient(state["params"], state["rest"], batch, key)
            return loss, scalars, rest, grads

        def one(carry, numbered):
            rest, total = carry
            number, micro = numbered
            micro = jax.lax.with_sharding_constraint(micro, self.batch_sharding)
            (loss, (scalars, rest)), grads = gradient(state["params"], rest, micro, jax.random.fold_in(key, number))
            return (rest, jax.tree.map(jnp.add, total, grads)), (loss, scalars)

        # Every k-th row, not k blocks: each device keeps its own rows and nothing moves between devices.
        micros = jax.tree.map(lambda x: x.reshape(-1, self.accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
        start = (state["rest"], jax.tree.map(jnp.zeros_like, state["params"]))
        (rest, total), (losses, scalars) = jax.lax.scan(one, start, (jnp.arange(self.accumulate), micros))
        mean = functools.partial(jax.tree.map, lambda x: x.mean(0))
        return mean(losses), mean(scalars), rest, jax.tree.map(lambda g: g / self.accumulate, total)

    def predict(
        self,
        state: State,
        batch: Batch,
        copy: jax.Array | None = None,
        key: jax.Array | None = None,
        *,
        ask: Asked | None = None,
    ) -> Mapping[str, jax.Array]:
        """What the task predicts for a batch of decoded arrays, with the averaged parameters where there are some.

        Args:
          copy: int32 number of an augmented view, prepared with `key` as in training; None prepares as evaluation does.
          ask: something else that is asked of the module and the prepared batch, in place of what the task predicts.
        """
        module = self.predictor(state)
        if copy is not None:  # a view depends on the first clip of its batch too, so that batches differ
            key = jax.random.fold_in(jax.random.fold_in(key, copy), batch["clip"][0])
        return dict((ask or self.task.predict)(module, self._prepare(batch, train=copy is not None, key=key)))

    def predictor(self, state: State) -> nnx.Module:
        """The module that predicts: with the averaged parameters and statistics where there are some."""
        params, rest = ({k: state["ema"].get(k, v) for k, v in state[part].items()} for part in ("params", "rest"))
        return self.net.merge(params, rest)

    def frozen(self, state: State, complete: Callable[[Batch], Batch]) -> Callable[[Batch], dict[str, jax.Array]]:
        """`predict` with the weights built in, for `mtjax.export`; `complete` adds what prediction does not depend on."""
        weights = jax.device_get(state)
        return jax.jit(lambda inputs: dict(self.predict(weights, complete(inputs))))


def weights_to_host(state: State) -> Params:
    """Path → NumPy array of what predicts: averaged parameters where there are some, and everything that is not trained."""
    return jax.device_get(state["params"] | state["rest"] | state["ema"])


def scalars_to_host(metrics: Scalars) -> dict[str, float]:
    """Waits for the step that made them."""
    return {name: float(value) for name, value in jax.device_get(metrics).items()}
