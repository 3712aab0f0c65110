"""Costs and operations of programs that are small enough to count by hand."""

import jax
import jax.numpy as jnp
from hlo_text import donated, elements, operations
from jax.sharding import PartitionSpec as P

from mlcls_jax.system.devices import AXIS, make_mesh, replicated, sharded
from mlcls_jax.system.hlo import Collective, collectives, flops, memory


def over_devices(function):
    mesh = make_mesh(8)
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(), check_vma=False
    )
    state = jax.ShapeDtypeStruct((3, 5), jnp.float32, sharding=replicated(mesh))
    batch = jax.ShapeDtypeStruct((16, 5), jnp.float32, sharding=sharded(mesh))
    return jax.jit(mapped, donate_argnums=0).lower(state, batch).compile()


def test_a_sum_over_devices_counts_its_bytes():
    program = over_devices(lambda state, batch: state + jax.lax.psum(batch.sum(), AXIS))
    assert collectives(program) == [Collective("all-reduce", 4)]
    assert donated(program) == {0}
    assert memory(program).aliased == 3 * 5 * 4


def test_a_gathered_batch_counts_its_bytes():
    program = over_devices(
        lambda state, batch: jax.lax.all_gather(batch, AXIS, tiled=True)[:3] * state
    )
    assert collectives(program) == [Collective("all-gather", 16 * 5 * 4)]


def test_an_argument_that_is_not_donated_is_not_aliased():
    shape = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    program = jax.jit(lambda x: x + 1).lower(shape).compile()
    assert donated(program) == set()
    assert (memory(program).aliased, memory(program).arguments) == (0, 4 * 6 * 4)
    assert memory(program).peak >= 2 * 4 * 6 * 4


def test_a_matrix_product_is_two_operations_per_element():
    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 6), (6, 8)))
    assert flops(jax.jit(jnp.dot).lower(a, b).compile()) == 2 * 4 * 6 * 8


def test_operations_name_their_types_and_groups():
    def network(x, kernel, matrix):
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=6,
        )
        return (y.reshape(-1, 6) @ matrix).T

    shapes = ((2, 8, 8, 6), (3, 3, 1, 6), (6, 4))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    text = jax.jit(network).lower(*arguments).as_text()
    convolution, product, transpose = operations(text, "convolution", "dot_general", "transpose")
    assert convolution.groups == 6
    assert convolution.operands == ("2x8x8x6xbf16", "3x3x1x6xbf16")
    assert product.operands == ("128x6xbf16", "6x4xbf16")
    assert (transpose.operands, transpose.results) == (("128x4xbf16",), ("4x128xbf16",))
    assert elements(transpose.operands[0]) == 512
