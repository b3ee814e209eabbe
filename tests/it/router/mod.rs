//! Several upstreams behind one address.

mod failover;
mod lists;
mod names;
mod probes;
mod rounds;
mod strategies;
