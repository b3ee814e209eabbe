//! Connections, limits, overload and the end.

mod acceptor;
mod disconnect;
mod guard;
mod http;
mod overload;
mod panic;
mod routes;
mod shutdown;
