"""The passes of TVM that our code goes through: no simplification of floats, no rescheduling."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.relax import transform as rx
from tvm.tirx import compilation_pipeline


def memory_passes() -> Any:
    """`reshape` stays a view; memory is planned by TVM."""
    return tvm.transform.Sequential(
        [
            rx.ToNonDataflow(),
            rx.RemovePurityChecking(),
            rx.CallTIRRewrite(),
            rx.StaticPlanBlockMemory(),
            rx.LowerAllocTensor(),
            rx.KillAfterLastUse(),
        ]
    )


def machine_passes() -> Any:
    """After the memory plan: to instructions of the virtual machine."""
    return tvm.transform.Sequential(
        [
            rx.LowerRuntimeBuiltin(),
            rx.ComputePrimValue(),
            rx.VMShapeLower(),
            rx.AttachGlobalSymbol(),
        ]
    )


def in_order(module: Any) -> Any:
    """The module with the stores of its shape functions sorted by place: TVM leaves them in the order of addresses."""
    functions: dict[Any, Any] = dict(module.functions.items())
    for name, code in functions.items():
        if "tirx.is_host_func" in (code.attrs or {}) and isinstance(code.body, tirx.SeqStmt):
            stores: list[Any] = sorted(code.body.seq, key=lambda store: int(store.indices[0]))
            functions[name] = code.with_body(tirx.SeqStmt(stores))
    return tvm.IRModule(functions, attrs=module.attrs)


def _lower_tir() -> tuple[Any, Any, Any]:
    """Without StmtSimplify, which folds x - ((x + c) - c) to 0 although floats round."""
    lowering = tvm.transform.Sequential(
        [
            tirx.transform.BF16ComputeLegalize(),
            tirx.transform.VerifyMemory(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
            tirx.transform.BF16StorageLegalize(),
        ]
    )
    return lowering, compilation_pipeline.finalize_host_passes, _finalize_device


def _finalize_device() -> Any:
    return tvm.transform.Sequential([tirx.transform.LowerIntrin()])


TIR_CONFIG = {"tirx.disable_assert": True}
"""The entry of the virtual machine checks every argument; a second check in each function takes compile time."""

TIR_PIPELINE = "mercer"
"""The name under which TVM's build finds the passes."""

compilation_pipeline.register_tir_pipeline(TIR_PIPELINE, _lower_tir)
