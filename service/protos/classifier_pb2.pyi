from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VectorSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VECTOR_SOURCE_UNSPECIFIED: _ClassVar[VectorSource]
    VECTOR_SOURCE_STORED: _ClassVar[VectorSource]
    VECTOR_SOURCE_COMPUTED: _ClassVar[VectorSource]
    VECTOR_SOURCE_ABSENT: _ClassVar[VectorSource]
VECTOR_SOURCE_UNSPECIFIED: VectorSource
VECTOR_SOURCE_STORED: VectorSource
VECTOR_SOURCE_COMPUTED: VectorSource
VECTOR_SOURCE_ABSENT: VectorSource

class ClassifyRequest(_message.Message):
    __slots__ = ("products", "top_k", "explain")
    PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    products: _containers.RepeatedCompositeFieldContainer[Product]
    top_k: int
    explain: bool
    def __init__(self, products: _Optional[_Iterable[_Union[Product, _Mapping]]] = ..., top_k: _Optional[int] = ..., explain: _Optional[bool] = ...) -> None: ...

class Product(_message.Message):
    __slots__ = ("product_id", "title", "description", "image")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    title: str
    description: str
    image: bytes
    def __init__(self, product_id: _Optional[str] = ..., title: _Optional[str] = ..., description: _Optional[str] = ..., image: _Optional[bytes] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("model", "results")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    results: _containers.RepeatedCompositeFieldContainer[Result]
    def __init__(self, model: _Optional[str] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("prediction", "error")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    error: Fault
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., error: _Optional[_Union[Fault, _Mapping]] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("prediction_id", "product_id", "category", "confidence", "accepted", "top", "text_only", "image_only", "text_vector", "image_vector", "prediction_set", "explanation")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    TEXT_ONLY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ONLY_FIELD_NUMBER: _ClassVar[int]
    TEXT_VECTOR_FIELD_NUMBER: _ClassVar[int]
    IMAGE_VECTOR_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_SET_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    product_id: str
    category: Category
    confidence: float
    accepted: bool
    top: _containers.RepeatedCompositeFieldContainer[Candidate]
    text_only: Candidate
    image_only: Candidate
    text_vector: VectorSource
    image_vector: VectorSource
    prediction_set: PredictionSet
    explanation: Explanation
    def __init__(self, prediction_id: _Optional[str] = ..., product_id: _Optional[str] = ..., category: _Optional[_Union[Category, _Mapping]] = ..., confidence: _Optional[float] = ..., accepted: _Optional[bool] = ..., top: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., text_only: _Optional[_Union[Candidate, _Mapping]] = ..., image_only: _Optional[_Union[Candidate, _Mapping]] = ..., text_vector: _Optional[_Union[VectorSource, str]] = ..., image_vector: _Optional[_Union[VectorSource, str]] = ..., prediction_set: _Optional[_Union[PredictionSet, _Mapping]] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ...) -> None: ...

class PredictionSet(_message.Message):
    __slots__ = ("codes", "coverage")
    CODES_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    codes: _containers.RepeatedScalarFieldContainer[str]
    coverage: float
    def __init__(self, codes: _Optional[_Iterable[str]] = ..., coverage: _Optional[float] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("text_bits", "image_bits", "neighbours")
    TEXT_BITS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BITS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    text_bits: float
    image_bits: float
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    def __init__(self, text_bits: _Optional[float] = ..., image_bits: _Optional[float] = ..., neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("product_id", "category", "similarity")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    category: Category
    similarity: float
    def __init__(self, product_id: _Optional[str] = ..., category: _Optional[_Union[Category, _Mapping]] = ..., similarity: _Optional[float] = ...) -> None: ...

class Category(_message.Message):
    __slots__ = ("code", "name")
    CODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    code: str
    name: str
    def __init__(self, code: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("category", "probability")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    category: Category
    probability: float
    def __init__(self, category: _Optional[_Union[Category, _Mapping]] = ..., probability: _Optional[float] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("reason", "field", "found", "wanted", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    field: str
    found: str
    wanted: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., field: _Optional[str] = ..., found: _Optional[str] = ..., wanted: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
