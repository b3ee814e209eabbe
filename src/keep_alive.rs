//! stub
use std::time::Duration;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KeepAlive {
    For(Duration),
    Forever,
}
#[allow(missing_docs)]
pub fn parse_go_duration(_: &str) -> Result<KeepAlive, String> {
    Ok(KeepAlive::Forever)
}
#[allow(missing_docs)]
impl KeepAlive {
    pub fn from_json(_: &serde_json::Value) -> Result<Option<KeepAlive>, String> {
        Ok(None)
    }
    pub fn is_zero(self) -> bool {
        self == KeepAlive::For(Duration::ZERO)
    }
}
