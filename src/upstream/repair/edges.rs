//! Values at the edge of a parameter's range, which some servers leave out of it.
//!
//! Data only. Invariant: the nearest value means the same as the one at the edge.

use serde_json::Value;

/// A parameter, whether a value is at an edge that some servers leave out of its range, and the nearest
/// value that all take; `None` where the edge means that the parameter has no effect.
pub(super) type Edge = (&'static str, fn(f64) -> bool, Option<&'static str>);

pub(super) const EDGES: &[Edge] = &[
    ("top_p", |value| value <= 0.0, Some("0.000001")),
    ("top_p", |value| value >= 1.0, None),
    ("temperature", |value| value == 0.0, Some("0.01")),
    ("top_k", |value| value <= 0.0, None),
    ("min_p", |value| value <= 0.0, None),
    ("repetition_penalty", |value| value == 1.0, None),
    ("repeat_penalty", |value| value == 1.0, None),
];

/// True if a value is at an edge of its parameter's range, for which there is a nearest value.
pub(super) fn is_at_edge(member: &str, value: &Value) -> bool {
    EDGES.iter().any(|(name, is_edge, nearest)| {
        *name == member && nearest.is_some() && value.as_f64().is_some_and(is_edge)
    })
}
