"""The private interfaces of torch that graphckpt uses, as a table, and a probe that says which of them are missing.

The table is for torch versions that were not tested. It names functions with the arguments they are given, classes with the methods
and fields that are used, and configuration entries that are read or set. What only some tested versions have is not in it:
`graphckpt.compat.aot.is_opaque` and its like ask for that themselves. Read in torch 2.11, 2.13, 2.14 and 2.15.

Not guaranteed: attributes that objects are given at run time only; those of schedules and of lowered graphs are among them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping

# Module -> names in it. "name(a, b)" is a callable that takes arguments of these names; "A.b" is a method or field of a class.
INTERFACES: Mapping[str, tuple[str, ...]] = {
    "torch._C": (
        "DisableTorchFunctionSubclass",
        "_DisableAutocast",
        "_autograd.DeviceType",
        "_autograd._pop_saved_tensors_default_hooks",
        "_autograd._profiler_enabled",
        "_autograd._push_saved_tensors_default_hooks",
        "_autograd._top_saved_tensors_default_hooks",
        "_len_torch_dispatch_stack",
        "_len_torch_function_stack",
        "_pop_torch_function_stack",
        "_push_on_torch_function_stack",
    ),
    "torch._dispatch.python": ("enable_python_dispatcher",),
    "torch._dynamo.backends.common": ("aot_autograd",),
    "torch._dynamo.backends.debugging": ("boxed_nop",),
    "torch._dynamo.convert_frame": ("CatchErrorsWrapper.__call__", "always_optimize_code_objects", "has_tensor_in_frame"),
    "torch._dynamo.eval_frame": ("DisableContext", "OptimizedModule"),
    "torch._dynamo.external_utils": ("wrap_inline",),
    "torch._dynamo.trace_rules": ("check",),
    "torch._dynamo.types": (
        "ConvertFrameReturn.apply_to_code",
        "ConvertFrameReturn.frame_exec_strategy",
        "ConvertFrameReturn.guarded_code",
        "FrameAction.RUN_ONLY",
    ),
    "torch._dynamo.utils": (
        "CompilationMetrics.co_firstlineno",
        "CompilationMetrics.co_name",
        "CompilationMetrics.fail_reason",
        "CompilationMetrics.restart_reasons",
        "get_compilation_metrics()",
    ),
    "torch._functorch.compile_utils": ("fx_graph_cse(fx_g)", "raise_getitems(gm)"),
    "torch._functorch.config": ("cse", "patch", "unsafe_allow_optimization_of_collectives"),
    "torch._functorch.partitioners": (
        "_extract_fwd_bwd_modules(joint_module, saved_values, saved_sym_nodes, num_fwd_outputs)",
        "_has_tag_must_be_in_backward(node)",
        "_has_tag_must_be_in_forward(node)",
        "_is_backward_state(node)",
        "_is_bwd_seed_offset(node)",
        "_is_tangent(node)",
        "cleanup_recompute_tags(joint_module, is_default_partition)",
        "force_save_bw_mutation_src(joint_module)",
        "force_save_collectives(joint_module)",
        "force_save_effectful_ops(joint_module)",
        "has_recomputable_ops(fx_g)",
        "is_sym_node(node)",
        "min_cut_rematerialization_partition(joint_module, compiler, num_fwd_outputs, static_lifetime_input_indices)",
        "thread_graphsafe_rng_from_hops(module, is_backward)",
    ),
    "torch._guards": ("TracingContext.try_get", "tracing(context)"),
    "torch._higher_order_ops.wrap": ("tag_activation_checkpoint",),
    "torch._inductor": ("list_mode_options(mode, dynamic)",),
    "torch._inductor.async_compile": ("AsyncCompile.pool.cache_clear",),
    "torch._inductor.choices": ("InductorChoices.can_fuse(scheduler, node1, node2, shared_data_score)",),
    "torch._inductor.codecache": ("PyCodeCache.load_by_key_path(key, path)",),
    "torch._inductor.compile_fx": (
        "_recursive_record_user_visible_output_idxs(gm)",
        "compile_fx(model_, example_inputs_, inner_compile, config_patches)",
        "compile_fx_inner(gm, example_inputs, static_input_idxs, is_backward, is_inference)",
        "fx_codegen_and_compile(gm, example_inputs)",
    ),
    "torch._inductor.config": (
        "_post_fusion_custom_pass",
        "_pre_fusion_custom_pass",
        "allow_buffer_reuse",
        "bw_outputs_user_visible",
        "custom_partitioner_fn",
        "fallback_random",
        "force_disable_caches",
        "fx_graph_cache",
        "fx_graph_remote_cache",
        "get_config_copy",
        "patch",
        "reorder_for_peak_memory",
        "triton.reorder_for_reducing_graph_partitions",
    ),
    "torch._inductor.custom_graph_pass": ("CustomPartitionerFn.uuid",),
    "torch._inductor.dependencies": ("WeakDep.is_fake",),
    "torch._inductor.graph": (
        "GraphLowering._compile_to_module_lines(wrapper_code)",
        "GraphLowering.try_get_buffer(buffer_name)",
        "get_donated_idxs()",
    ),
    "torch._inductor.inductor_prims": ("lookup_seed", "randint", "random", "seed", "seeds"),
    "torch._inductor.ir": (
        "Buffer.get_output_spec",
        "ExternKernel.get_mutation_names",
        "ExternKernel.get_origins",
        "FixedLayout",
        "FlexibleLayout",
        "MultiOutput",
        "RandomSeeds",
        "TensorBox",
    ),
    "torch._inductor.lowering": ("fallbacks", "lowerings", "register_lowering(aten_fn, type_promotion_kind)"),
    "torch._inductor.output_code": (
        "CompiledFxGraph.compiled_fn_runner",
        "CompiledFxGraph.current_callable",
        "CompiledFxGraph.output_strides",
        "CompiledFxGraph.recursively_apply_fns",
        "CompiledFxGraph.source_code",
    ),
    "torch._inductor.runtime.cache_dir_utils": ("cache_dir()",),
    "torch._inductor.scheduler": (
        "BaseSchedulerNode.add_fake_dep(dep)",
        "BaseSchedulerNode.estimate_flops",
        "BaseSchedulerNode.get_buffer_names",
        "BaseSchedulerNode.get_nodes",
        "BaseSchedulerNode.get_read_write_buffers_sizes",
        "ExternKernelSchedulerNode",
        "Scheduler.compute_ancestors()",
    ),
    "torch._inductor.sizevars": ("SizeVarAllocator.optimization_hint(expr)",),
    "torch._inductor.utils": ("count_tangents(fx_g)",),
    "torch._inductor.virtualized": ("V.choices", "V.graph", "V.set_choices_handler", "V.set_graph_handler"),
    "torch._logging": ("trace_structured(metadata_fn, payload_fn, expect_trace_id)",),
    "torch._ops": ("HigherOrderOperator", "OpOverload", "OpOverloadPacket"),
    "torch._subclasses": ("FakeTensor",),
    "torch._subclasses.fake_tensor": ("FakeTensor", "unset_fake_temporarily()"),
    "torch.fx._lazy_graph_module": ("_make_graph_module",),
    "torch.utils._python_dispatch": ("TorchDispatchMode", "_disable_current_modes()", "is_traceable_wrapper_subclass(t)"),
    "torch.utils._pytree": ("tree_leaves", "tree_map"),
}


def missing_interfaces() -> tuple[str, ...]:
    """What the installed torch lacks of the table, one sentence fragment each; empty where all of it is there."""
    found = []
    for module_name, entries in INTERFACES.items():
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            found.append(f"no module {module_name} ({error})")
            continue
        lacks = (_lack(module, entry) for entry in entries)
        found += [f"{module_name}.{lack}" for lack in lacks if lack]
    return tuple(found)


def _lack(module: object, entry: str) -> str:
    """What an entry of the table lacks in its module; "" if nothing."""
    path, has_arguments, arguments = entry.rstrip(")").partition("(")
    owner = module
    for part in path.split("."):
        if not hasattr(owner, part):
            # A field of a dataclass is declared, and set by its constructor.
            declared = isinstance(owner, type) and any(part in vars(base).get("__annotations__", ()) for base in owner.__mro__)
            return "" if declared else f"{path} is missing"
        owner = getattr(owner, part)
    if not has_arguments:
        return ""
    try:
        parameters = inspect.signature(owner).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return f"{path} is no function"
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return ""
    unknown = [name for name in arguments.split(", ") if name and name not in parameters]
    return f"{path} takes no argument {', '.join(unknown)}" if unknown else ""
