"""Which message answers which."""

from __future__ import annotations

from fl_sim.messages.calibration import (
    AgreeRequest,
    CountsReport,
    CountsRequest,
    DescendRequest,
    HistogramReport,
    HistogramRequest,
    LabelCountsReport,
    LabelCountsRequest,
    OrderStatisticRequest,
    ScoresReport,
    ScoresRequest,
    SizeReport,
    SizeRequest,
    SketchReport,
    SketchRequest,
    StepReport,
    TemperatureReport,
    TemperatureRequest,
    ThresholdReport,
    ThresholdRequest,
)
from fl_sim.messages.evaluation import CommonRowsReport, CommonRowsRequest, EvaluateReport, EvaluateRequest
from fl_sim.messages.learning import (
    AdoptRequest,
    FitReport,
    FitRequest,
    ImagesRequest,
    PayloadRequest,
    ProbeRequest,
    WeightsRequest,
)
from fl_sim.messages.record import Record

# What answers each type of request; a type that is not here is a user's own.
REPLIES: dict[str, type[Record]] = {
    FitRequest.message_type: FitReport,
    AdoptRequest.message_type: FitReport,
    PayloadRequest.message_type: FitReport,
    ImagesRequest.message_type: FitReport,
    WeightsRequest.message_type: FitReport,
    ProbeRequest.message_type: FitReport,
    TemperatureRequest.message_type: TemperatureReport,
    ThresholdRequest.message_type: ThresholdReport,
    OrderStatisticRequest.message_type: ThresholdReport,
    ScoresRequest.message_type: ScoresReport,
    SizeRequest.message_type: SizeReport,
    SketchRequest.message_type: SketchReport,
    HistogramRequest.message_type: HistogramReport,
    CountsRequest.message_type: CountsReport,
    LabelCountsRequest.message_type: LabelCountsReport,
    DescendRequest.message_type: StepReport,
    AgreeRequest.message_type: StepReport,
    EvaluateRequest.message_type: EvaluateReport,
    CommonRowsRequest.message_type: CommonRowsReport,
}


# Exchanges that are the laboratory's altogether: neither question nor answer is weighed.
UNWEIGHED = frozenset({CommonRowsRequest.message_type})
