//! The load generator: its options ([`options`]), what it sends ([`request`]) and when
//! ([`arrivals`]), how an answer is checked ([`answer`]), one connection ([`connection`]), the loop
//! ([`run`]) and what was counted ([`stats`]).

pub mod answer;
pub mod arrivals;
pub mod connection;
pub mod options;
pub mod request;
pub mod run;
pub mod stats;
