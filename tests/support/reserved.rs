//! An address where nothing listens, and that the kernel gives to nothing else.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

/// Holds the address: connections to it are refused, and no other test gets it.
pub struct Reserved {
    socket: Socket,
}

impl Reserved {
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // A listener has that set as well, so that it may have the address, too.
        socket.set_reuse_address(true).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        Self { socket }
    }

    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().expect("bound").as_socket().expect("an address")
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr())
    }
}
