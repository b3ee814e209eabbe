//! Connections: limits, overload, disconnects and shutdown.

mod acceptor;
mod claims;
mod disconnect;
mod guard;
mod http;
mod memory;
mod overload;
mod panic;
mod routes;
mod shutdown;
