//! A trace of the switch in the words of the schema.

use culvert_api::v1;
use culvert_switch::PortId;
use culvert_switch::trace::Trace;

/// A trace; `name` gives names to ports.
pub fn view(trace: Trace, name: &dyn Fn(PortId) -> String) -> v1::TraceResponse {
    let steps = trace.steps.into_iter().map(|step| v1::TraceStep { what: step.what, why: step.why });
    let fates = trace.fates.iter().map(|fate| v1::TraceFate {
        port: name(fate.port),
        dropped: fate.treatment.err().map(|reason| reason.name().to_owned()).unwrap_or_default(),
        copy: fate.is_copy,
    });
    let refused = trace.refused.map(|reason| reason.name().to_owned()).unwrap_or_default();
    v1::TraceResponse { steps: steps.collect(), fates: fates.collect(), refused }
}
