//! Several upstreams behind one address.

mod failover;
mod lists;
mod names;
mod rounds;
mod strategies;
