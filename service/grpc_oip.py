"""inference.GRPCInferenceService: the Open Inference Protocol over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc

from service import oip
from service.desk import Desk, Reply, worst_fault
from service.errors import RequestError
from service.grpc_calls import abort, holding, terms_of
from service.guard import HeldBytes
from service.protos import inference_pb2 as pb
from service.protos.inference_pb2_grpc import GRPCInferenceServiceServicer
from service.wire import Ask

Context = grpc.aio.ServicerContext


class GrpcOip(GRPCInferenceServiceServicer):
    """Products as tensors; `desk` is there once the worker is ready."""

    def __init__(self, desk: Callable[[], Desk], held: HeldBytes) -> None:
        self.desk = desk
        self.held = held

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=True)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=oip.PLATFORM, version=self._version())

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        await self._check(request.name, request.version, context)
        return pb.ModelReadyResponse(ready=True)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        await self._check(request.name, request.version, context)
        return pb.ModelMetadataResponse(
            name=oip.MODEL,
            versions=[self._version()],
            platform=oip.PLATFORM,
            inputs=[_metadata(tensor) for tensor in oip.INPUTS],
            outputs=[_metadata(tensor) for tensor in oip.OUTPUTS],
        )

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        desk = self.desk()
        try:
            oip.check_model(request.model_name, request.model_version, self._version())
            with desk.telemetry.stage("parse"):
                given = oip.read_products(_tensors(request))
                top_k = oip.read_top_k(_parameter(request))
                outputs = oip.check_outputs([output.name for output in request.outputs])
                terms = terms_of(context)
            with holding(self.held, given, desk):
                pinned = request.model_version != ""
                reply = await desk.classify(given, Ask(top_k=top_k), terms, pinned=pinned)
        except RequestError as error:
            desk.telemetry.error(error.reason)
            await abort(context, error)
        desk.telemetry.faults(reply.outcomes)
        if (worst := worst_fault(reply.outcomes)) is not None:
            await abort(context, worst)
        return _response(request, reply, outputs)

    def _version(self) -> str:
        return self.desk().champion().classifier.version.partition(":")[2]

    async def _check(self, name: str, version: str, context: Context) -> None:
        try:
            oip.check_model(name, version, self._version())
        except RequestError as error:
            await abort(context, error)


def _metadata(tensor: oip.Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )


def _tensors(request: pb.ModelInferRequest) -> dict[str, list[bytes]]:
    """Elements by input. Raises RequestError."""
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        found, wanted = f"{len(raw)} raw contents", f"{len(request.inputs)}, one an input"
        raise RequestError(422, "value_wrong", field="raw_input_contents", found=found, wanted=wanted)
    tensors: dict[str, list[bytes]] = {}
    for number, tensor in enumerate(request.inputs):
        count = oip.check_tensor(tensor.name, tensor.datatype, tensor.shape)
        if tensor.name in tensors:
            raise RequestError(422, "field_twice", field=tensor.name, found="two of this name", wanted="one")
        if raw:
            tensors[tensor.name] = oip.split_bytes(raw[number], tensor.name, count)
        else:
            elements = list(tensor.contents.bytes_contents)
            tensors[tensor.name] = oip.check_count(elements, tensor.name, count)
    return tensors


def _parameter(request: pb.ModelInferRequest) -> object:
    if "top_k" not in request.parameters:
        return None
    parameter = request.parameters["top_k"]
    return getattr(parameter, parameter.WhichOneof("parameter_choice") or "string_param")


def _response(request: pb.ModelInferRequest, reply: Reply, names: Sequence[str]) -> pb.ModelInferResponse:
    k, values = oip.answer_values(reply)
    response = pb.ModelInferResponse(
        model_name=oip.MODEL, model_version=reply.model.partition(":")[2], id=request.id
    )
    datatypes = {tensor.name: tensor.datatype for tensor in oip.OUTPUTS}
    for name in names:
        datatype = datatypes[name]
        response.outputs.add(name=name, datatype=datatype, shape=oip.shape_of(name, len(reply.outcomes), k))
        response.raw_output_contents.append(oip.raw_tensor(datatype, values[name]))
    return response
