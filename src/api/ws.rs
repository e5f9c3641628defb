//! `GET /ws`: the upgrade.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::ws::WsResponseBuilder;

use super::edge::Shared;
use super::error::{Code, EdgeError};
use crate::actors::connection::Connection;
use crate::actors::registry::Register;
use crate::actors::session::{FRAME_BYTES_READ_MAX, Session, SessionParts};

/// Data that was sent and that the peer's machine has not confirmed for so long ends the connection (RFC 5482).
const TCP_USER_TIMEOUT_MS: libc::c_uint = 20_000;

/// The socket of a connection, kept with it from accept to close.
struct Socket(RawFd);

/// Registers the address.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/ws").get(upgrade));
}

/// Called for every accepted connection.
pub fn on_connect(connection: &dyn std::any::Any, extensions: &mut Extensions) {
    let Some(stream) = connection.downcast_ref::<TcpStream>() else { return };
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "no TCP_NODELAY");
    }
    set_user_timeout(stream.as_raw_fd());
    extensions.insert(Socket(stream.as_raw_fd()));
}

fn set_user_timeout(fd: RawFd) {
    let value = TCP_USER_TIMEOUT_MS;
    // SAFETY: the descriptor is open, since its stream is borrowed by the caller; the option takes an unsigned int.
    let done = unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            std::ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if done != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "no TCP_USER_TIMEOUT");
    }
}

/// A second descriptor of the request's socket.
fn duplicate(request: &HttpRequest) -> Option<OwnedFd> {
    let Socket(fd) = request.conn_data::<Socket>()?;
    // SAFETY: a request is being answered on it, so its connection still holds the descriptor open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(*fd) };
    borrowed.try_clone_to_owned().ok()
}

async fn upgrade(edge: Shared, request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, actix_web::Error> {
    edge.takes_commands()?;
    let caller = edge.caller(&request)?;
    let socket = duplicate(&request)
        .ok_or_else(|| EdgeError::new(Code::Internal).message("the connection's socket cannot be duplicated"))?;
    let connection = Arc::new(Connection::new(Some(socket)));
    let user = caller.as_ref().map(|c| c.user);
    connection.entered.lock().user = user;
    connection.set_id(edge.gateway.connect(user, connection.clone()));
    // From here on the registry gives the connection back when the session is dropped.
    if !edge.registry.send(Register(Arc::clone(&connection))).await.unwrap_or(false) {
        edge.gateway.disconnect(connection.id());
        return Err(EdgeError::new(Code::Draining).into());
    }
    let session = Session::new(SessionParts {
        gateway: Arc::clone(&edge.gateway),
        router: Arc::clone(&edge.router),
        identity: Arc::clone(&edge.identity),
        connection,
        caller,
    });
    WsResponseBuilder::new(session, &request, payload).frame_size(FRAME_BYTES_READ_MAX).start()
}
