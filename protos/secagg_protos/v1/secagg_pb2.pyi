from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_STATE_UNSPECIFIED: _ClassVar[SessionState]
    SESSION_STATE_PROPOSED: _ClassVar[SessionState]
    SESSION_STATE_OPEN: _ClassVar[SessionState]
    SESSION_STATE_CLOSING: _ClassVar[SessionState]
    SESSION_STATE_RELEASED: _ClassVar[SessionState]
    SESSION_STATE_TOO_FEW: _ClassVar[SessionState]
    SESSION_STATE_BURNT: _ClassVar[SessionState]
    SESSION_STATE_EXPIRED: _ClassVar[SessionState]

class SetStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SET_STAGE_UNSPECIFIED: _ClassVar[SetStage]
    SET_STAGE_CANDIDATE: _ClassVar[SetStage]
    SET_STAGE_FINAL: _ClassVar[SetStage]
SESSION_STATE_UNSPECIFIED: SessionState
SESSION_STATE_PROPOSED: SessionState
SESSION_STATE_OPEN: SessionState
SESSION_STATE_CLOSING: SessionState
SESSION_STATE_RELEASED: SessionState
SESSION_STATE_TOO_FEW: SessionState
SESSION_STATE_BURNT: SessionState
SESSION_STATE_EXPIRED: SessionState
SET_STAGE_UNSPECIFIED: SetStage
SET_STAGE_CANDIDATE: SetStage
SET_STAGE_FINAL: SetStage

class GetSessionRequest(_message.Message):
    __slots__ = ("ctx",)
    CTX_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    def __init__(self, ctx: _Optional[bytes] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("signed_descriptor_json",)
    SIGNED_DESCRIPTOR_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_descriptor_json: bytes
    def __init__(self, signed_descriptor_json: _Optional[bytes] = ...) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("signed_enrolment_json",)
    SIGNED_ENROLMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_enrolment_json: bytes
    def __init__(self, signed_enrolment_json: _Optional[bytes] = ...) -> None: ...

class EnrolResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BeginUploadRequest(_message.Message):
    __slots__ = ("signed_upload_json",)
    SIGNED_UPLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_upload_json: bytes
    def __init__(self, signed_upload_json: _Optional[bytes] = ...) -> None: ...

class BeginUploadResponse(_message.Message):
    __slots__ = ("offset", "signed_receipt_json")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIGNED_RECEIPT_JSON_FIELD_NUMBER: _ClassVar[int]
    offset: int
    signed_receipt_json: bytes
    def __init__(self, offset: _Optional[int] = ..., signed_receipt_json: _Optional[bytes] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("signed_upload_json", "boxes", "offset")
    SIGNED_UPLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    signed_upload_json: bytes
    boxes: _containers.RepeatedScalarFieldContainer[bytes]
    offset: int
    def __init__(self, signed_upload_json: _Optional[bytes] = ..., boxes: _Optional[_Iterable[bytes]] = ..., offset: _Optional[int] = ...) -> None: ...

class UploadRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadResponse(_message.Message):
    __slots__ = ("signed_receipt_json",)
    SIGNED_RECEIPT_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_receipt_json: bytes
    def __init__(self, signed_receipt_json: _Optional[bytes] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("ctx",)
    CTX_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    def __init__(self, ctx: _Optional[bytes] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("state", "reason", "signed_receipt_json", "releases", "own_release")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SIGNED_RECEIPT_JSON_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    OWN_RELEASE_FIELD_NUMBER: _ClassVar[int]
    state: SessionState
    reason: str
    signed_receipt_json: bytes
    releases: int
    own_release: int
    def __init__(self, state: _Optional[_Union[SessionState, str]] = ..., reason: _Optional[str] = ..., signed_receipt_json: _Optional[bytes] = ..., releases: _Optional[int] = ..., own_release: _Optional[int] = ...) -> None: ...

class GetProposalRequest(_message.Message):
    __slots__ = ("ctx",)
    CTX_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    def __init__(self, ctx: _Optional[bytes] = ...) -> None: ...

class GetProposalResponse(_message.Message):
    __slots__ = ("signed_descriptor_json",)
    SIGNED_DESCRIPTOR_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_descriptor_json: bytes
    def __init__(self, signed_descriptor_json: _Optional[bytes] = ...) -> None: ...

class ApproveRequest(_message.Message):
    __slots__ = ("signed_approval_json",)
    SIGNED_APPROVAL_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_approval_json: bytes
    def __init__(self, signed_approval_json: _Optional[bytes] = ...) -> None: ...

class ApproveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetWorkRequest(_message.Message):
    __slots__ = ("ctx", "wait_milliseconds")
    CTX_FIELD_NUMBER: _ClassVar[int]
    WAIT_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    wait_milliseconds: int
    def __init__(self, ctx: _Optional[bytes] = ..., wait_milliseconds: _Optional[int] = ...) -> None: ...

class ReleasedSets(_message.Message):
    __slots__ = ("signed_candidate_json", "signed_final_json", "endorsements_json")
    SIGNED_CANDIDATE_JSON_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FINAL_JSON_FIELD_NUMBER: _ClassVar[int]
    ENDORSEMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_candidate_json: bytes
    signed_final_json: bytes
    endorsements_json: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, signed_candidate_json: _Optional[bytes] = ..., signed_final_json: _Optional[bytes] = ..., endorsements_json: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CandidateWork(_message.Message):
    __slots__ = ("signed_candidate_json", "peer_endorsements_json", "earlier")
    SIGNED_CANDIDATE_JSON_FIELD_NUMBER: _ClassVar[int]
    PEER_ENDORSEMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    EARLIER_FIELD_NUMBER: _ClassVar[int]
    signed_candidate_json: bytes
    peer_endorsements_json: _containers.RepeatedScalarFieldContainer[bytes]
    earlier: _containers.RepeatedCompositeFieldContainer[ReleasedSets]
    def __init__(self, signed_candidate_json: _Optional[bytes] = ..., peer_endorsements_json: _Optional[_Iterable[bytes]] = ..., earlier: _Optional[_Iterable[_Union[ReleasedSets, _Mapping]]] = ...) -> None: ...

class DegreeWork(_message.Message):
    __slots__ = ("signed_candidate_json", "endorsements_json")
    SIGNED_CANDIDATE_JSON_FIELD_NUMBER: _ClassVar[int]
    ENDORSEMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_candidate_json: bytes
    endorsements_json: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, signed_candidate_json: _Optional[bytes] = ..., endorsements_json: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FinalWork(_message.Message):
    __slots__ = ("signed_candidate_json", "signed_final_json", "answers_json", "peer_endorsements_json", "degree_answers_json")
    SIGNED_CANDIDATE_JSON_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FINAL_JSON_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_JSON_FIELD_NUMBER: _ClassVar[int]
    PEER_ENDORSEMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    DEGREE_ANSWERS_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_candidate_json: bytes
    signed_final_json: bytes
    answers_json: _containers.RepeatedScalarFieldContainer[bytes]
    peer_endorsements_json: _containers.RepeatedScalarFieldContainer[bytes]
    degree_answers_json: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, signed_candidate_json: _Optional[bytes] = ..., signed_final_json: _Optional[bytes] = ..., answers_json: _Optional[_Iterable[bytes]] = ..., peer_endorsements_json: _Optional[_Iterable[bytes]] = ..., degree_answers_json: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ShareWork(_message.Message):
    __slots__ = ("signed_final_json", "endorsements_json")
    SIGNED_FINAL_JSON_FIELD_NUMBER: _ClassVar[int]
    ENDORSEMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_final_json: bytes
    endorsements_json: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, signed_final_json: _Optional[bytes] = ..., endorsements_json: _Optional[_Iterable[bytes]] = ...) -> None: ...

class GetWorkResponse(_message.Message):
    __slots__ = ("state", "reason", "candidate", "final", "share", "degree")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    DEGREE_FIELD_NUMBER: _ClassVar[int]
    state: SessionState
    reason: str
    candidate: CandidateWork
    final: FinalWork
    share: ShareWork
    degree: DegreeWork
    def __init__(self, state: _Optional[_Union[SessionState, str]] = ..., reason: _Optional[str] = ..., candidate: _Optional[_Union[CandidateWork, _Mapping]] = ..., final: _Optional[_Union[FinalWork, _Mapping]] = ..., share: _Optional[_Union[ShareWork, _Mapping]] = ..., degree: _Optional[_Union[DegreeWork, _Mapping]] = ...) -> None: ...

class GetEvidenceRequest(_message.Message):
    __slots__ = ("ctx", "stage", "release")
    CTX_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    stage: SetStage
    release: int
    def __init__(self, ctx: _Optional[bytes] = ..., stage: _Optional[_Union[SetStage, str]] = ..., release: _Optional[int] = ...) -> None: ...

class GetEvidenceResponse(_message.Message):
    __slots__ = ("signed_upload_json", "box", "path")
    SIGNED_UPLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    signed_upload_json: bytes
    box: bytes
    path: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, signed_upload_json: _Optional[bytes] = ..., box: _Optional[bytes] = ..., path: _Optional[_Iterable[bytes]] = ...) -> None: ...

class EndorseRequest(_message.Message):
    __slots__ = ("signed_endorsement_json",)
    SIGNED_ENDORSEMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_endorsement_json: bytes
    def __init__(self, signed_endorsement_json: _Optional[bytes] = ...) -> None: ...

class EndorseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SubmitDegreeAnswerRequest(_message.Message):
    __slots__ = ("signed_degree_answer_json",)
    SIGNED_DEGREE_ANSWER_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_degree_answer_json: bytes
    def __init__(self, signed_degree_answer_json: _Optional[bytes] = ...) -> None: ...

class SubmitDegreeAnswerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SubmitShareSumRequest(_message.Message):
    __slots__ = ("signed_share_sum_json", "share")
    SIGNED_SHARE_SUM_JSON_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    signed_share_sum_json: bytes
    share: bytes
    def __init__(self, signed_share_sum_json: _Optional[bytes] = ..., share: _Optional[bytes] = ...) -> None: ...

class SubmitShareSumResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReleaseFilesRequest(_message.Message):
    __slots__ = ("ctx", "release")
    CTX_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    release: int
    def __init__(self, ctx: _Optional[bytes] = ..., release: _Optional[int] = ...) -> None: ...

class ReleaseFile(_message.Message):
    __slots__ = ("name", "size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class ListReleaseFilesResponse(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[ReleaseFile]
    def __init__(self, files: _Optional[_Iterable[_Union[ReleaseFile, _Mapping]]] = ...) -> None: ...

class GetReleaseFileRequest(_message.Message):
    __slots__ = ("ctx", "name", "release")
    CTX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    name: str
    release: int
    def __init__(self, ctx: _Optional[bytes] = ..., name: _Optional[str] = ..., release: _Optional[int] = ...) -> None: ...

class GetReleaseFileResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class AdvertiseRequest(_message.Message):
    __slots__ = ("signed_advertisement_json",)
    SIGNED_ADVERTISEMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_advertisement_json: bytes
    def __init__(self, signed_advertisement_json: _Optional[bytes] = ...) -> None: ...

class AdvertiseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetDirectoryRequest(_message.Message):
    __slots__ = ("ctx",)
    CTX_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    def __init__(self, ctx: _Optional[bytes] = ...) -> None: ...

class GetDirectoryResponse(_message.Message):
    __slots__ = ("signed_advertisement_json",)
    SIGNED_ADVERTISEMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_advertisement_json: bytes
    def __init__(self, signed_advertisement_json: _Optional[bytes] = ...) -> None: ...

class MaskedLeaf(_message.Message):
    __slots__ = ("receiver", "commitment", "box")
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    receiver: int
    commitment: bytes
    box: bytes
    def __init__(self, receiver: _Optional[int] = ..., commitment: _Optional[bytes] = ..., box: _Optional[bytes] = ...) -> None: ...

class ShareKeyRequest(_message.Message):
    __slots__ = ("signed_sharing_json", "leaves")
    SIGNED_SHARING_JSON_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    signed_sharing_json: bytes
    leaves: _containers.RepeatedCompositeFieldContainer[MaskedLeaf]
    def __init__(self, signed_sharing_json: _Optional[bytes] = ..., leaves: _Optional[_Iterable[_Union[MaskedLeaf, _Mapping]]] = ...) -> None: ...

class ShareKeyResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MaskedDelivery(_message.Message):
    __slots__ = ("signed_json", "index", "commitment", "path", "box")
    SIGNED_JSON_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    signed_json: bytes
    index: int
    commitment: bytes
    path: _containers.RepeatedScalarFieldContainer[bytes]
    box: bytes
    def __init__(self, signed_json: _Optional[bytes] = ..., index: _Optional[int] = ..., commitment: _Optional[bytes] = ..., path: _Optional[_Iterable[bytes]] = ..., box: _Optional[bytes] = ...) -> None: ...

class MaskedMembers(_message.Message):
    __slots__ = ("members",)
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, members: _Optional[_Iterable[int]] = ...) -> None: ...

class GetSharedRequest(_message.Message):
    __slots__ = ("ctx",)
    CTX_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    def __init__(self, ctx: _Optional[bytes] = ...) -> None: ...

class GetSharedResponse(_message.Message):
    __slots__ = ("shared", "delivery")
    SHARED_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    shared: MaskedMembers
    delivery: MaskedDelivery
    def __init__(self, shared: _Optional[_Union[MaskedMembers, _Mapping]] = ..., delivery: _Optional[_Union[MaskedDelivery, _Mapping]] = ...) -> None: ...

class MaskedUploadHeader(_message.Message):
    __slots__ = ("signed_upload_json", "leaves", "offset")
    SIGNED_UPLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    signed_upload_json: bytes
    leaves: _containers.RepeatedCompositeFieldContainer[MaskedLeaf]
    offset: int
    def __init__(self, signed_upload_json: _Optional[bytes] = ..., leaves: _Optional[_Iterable[_Union[MaskedLeaf, _Mapping]]] = ..., offset: _Optional[int] = ...) -> None: ...

class MaskedUploadRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: MaskedUploadHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[MaskedUploadHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class GetSurvivorsRequest(_message.Message):
    __slots__ = ("ctx",)
    CTX_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    def __init__(self, ctx: _Optional[bytes] = ...) -> None: ...

class GetSurvivorsResponse(_message.Message):
    __slots__ = ("signed_set_json",)
    SIGNED_SET_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_set_json: bytes
    def __init__(self, signed_set_json: _Optional[bytes] = ...) -> None: ...

class EndorseSurvivorsRequest(_message.Message):
    __slots__ = ("signed_endorsement_json",)
    SIGNED_ENDORSEMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_endorsement_json: bytes
    def __init__(self, signed_endorsement_json: _Optional[bytes] = ...) -> None: ...

class EndorseSurvivorsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetUnmaskingRequest(_message.Message):
    __slots__ = ("ctx",)
    CTX_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    def __init__(self, ctx: _Optional[bytes] = ...) -> None: ...

class GetUnmaskingResponse(_message.Message):
    __slots__ = ("signed_endorsement_json", "delivery")
    SIGNED_ENDORSEMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    signed_endorsement_json: bytes
    delivery: MaskedDelivery
    def __init__(self, signed_endorsement_json: _Optional[bytes] = ..., delivery: _Optional[_Union[MaskedDelivery, _Mapping]] = ...) -> None: ...

class UnmaskRequest(_message.Message):
    __slots__ = ("signed_unmasking_json",)
    SIGNED_UNMASKING_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_unmasking_json: bytes
    def __init__(self, signed_unmasking_json: _Optional[bytes] = ...) -> None: ...

class UnmaskResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCkksApprovalRequest(_message.Message):
    __slots__ = ("ctx",)
    CTX_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    def __init__(self, ctx: _Optional[bytes] = ...) -> None: ...

class GetCkksApprovalResponse(_message.Message):
    __slots__ = ("signed_approval_json",)
    SIGNED_APPROVAL_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_approval_json: bytes
    def __init__(self, signed_approval_json: _Optional[bytes] = ...) -> None: ...

class CkksUploadHeader(_message.Message):
    __slots__ = ("signed_upload_json", "offset")
    SIGNED_UPLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    signed_upload_json: bytes
    offset: int
    def __init__(self, signed_upload_json: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class CkksUploadRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: CkksUploadHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[CkksUploadHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class GetCkksSetRequest(_message.Message):
    __slots__ = ("ctx",)
    CTX_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    def __init__(self, ctx: _Optional[bytes] = ...) -> None: ...

class GetCkksSetResponse(_message.Message):
    __slots__ = ("signed_set_json",)
    SIGNED_SET_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_set_json: bytes
    def __init__(self, signed_set_json: _Optional[bytes] = ...) -> None: ...

class GetCkksUploadRequest(_message.Message):
    __slots__ = ("ctx", "client")
    CTX_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    client: bytes
    def __init__(self, ctx: _Optional[bytes] = ..., client: _Optional[bytes] = ...) -> None: ...

class GetCkksUploadResponse(_message.Message):
    __slots__ = ("signed_upload_json", "chunk")
    SIGNED_UPLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    signed_upload_json: bytes
    chunk: bytes
    def __init__(self, signed_upload_json: _Optional[bytes] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class SubmitOpeningRequest(_message.Message):
    __slots__ = ("signed_opening_json", "chunk")
    SIGNED_OPENING_JSON_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    signed_opening_json: bytes
    chunk: bytes
    def __init__(self, signed_opening_json: _Optional[bytes] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class SubmitOpeningResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RefuseOpeningRequest(_message.Message):
    __slots__ = ("signed_refusal_json",)
    SIGNED_REFUSAL_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_refusal_json: bytes
    def __init__(self, signed_refusal_json: _Optional[bytes] = ...) -> None: ...

class RefuseOpeningResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCkksRefusalRequest(_message.Message):
    __slots__ = ("ctx",)
    CTX_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    def __init__(self, ctx: _Optional[bytes] = ...) -> None: ...

class GetCkksRefusalResponse(_message.Message):
    __slots__ = ("signed_refusal_json",)
    SIGNED_REFUSAL_JSON_FIELD_NUMBER: _ClassVar[int]
    signed_refusal_json: bytes
    def __init__(self, signed_refusal_json: _Optional[bytes] = ...) -> None: ...
