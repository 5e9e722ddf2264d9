//! `exec` and `attach`: a command in a container, or its own streams, over channels of the upgraded connection.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use serde_json::json;
use stower_crds::Kind;
use tokio::net::UnixStream;

use super::{
    Api,
    objects::find,
    place::One,
    query::Params,
    stall::Stall,
    status::{Refusal, ok},
};
use crate::{
    channels,
    exec::{AttachOptions, ExecOptions},
    node::ApiError,
};

const STREAMS: [&str; 3] = ["stdin", "stdout", "stderr"];

pub(super) async fn exec(
    State(api): State<Api>,
    one: One,
    params: Params,
    request: Request,
) -> Result<Response, Refusal> {
    let key = one.with("exec", &[Kind::Container])?;
    params.only(&[
        "command",
        "container",
        "env",
        "workingDir",
        "user",
        "tty",
        "rows",
        "columns",
        "stdin",
        "stdout",
        "stderr",
    ])?;
    let mut options = ExecOptions {
        command: params.all("command"),
        env: params.all("env"),
        working_dir: params.get("workingDir").map(str::to_owned),
        user: params.get("user").map(str::to_owned),
        ..ExecOptions::default()
    };
    if options.command.is_empty() {
        return Err(Refusal::bad_request(
            "command: required: the command to run, a parameter for each argument",
        ));
    }
    for (wanted, name) in options.streams.iter_mut().zip(STREAMS) {
        *wanted = params.flag(name)?;
    }
    if params.flag("tty")? {
        options.tty = Some(size(&params)?);
    }
    let upgrade = wanted_upgrade(request)?;
    let object = find(&api, &key)?;
    let session = api.backend.exec(&object.key, options).await?;
    tokio::spawn(async move {
        // Without a connection nobody wants the command.
        if let Some((stream, read)) = upgraded(upgrade).await {
            session.serve(stream, &read).await;
        }
    });
    Ok(switching())
}

pub(super) async fn attach(
    State(api): State<Api>,
    one: One,
    params: Params,
    request: Request,
) -> Result<Response, Refusal> {
    let key = one.with("attach", &[Kind::Container])?;
    params.only(&["container", "tty", "rows", "columns", "stdin", "stdout", "stderr"])?;
    let tty = if params.flag("tty")? { Some(size(&params)?) } else { None };
    let options = AttachOptions { tty, stdin: params.flag("stdin")? };
    let upgrade = wanted_upgrade(request)?;
    let object = find(&api, &key)?;
    let attachment = api.backend.attach(&object.key, options).await?;
    tokio::spawn(async move {
        if let Some((stream, read)) = upgraded(upgrade).await {
            attachment.serve(stream, &read).await;
        }
    });
    Ok(switching())
}

pub(super) async fn processes(State(api): State<Api>, one: One, params: Params) -> Result<Response, Refusal> {
    let key = one.with("processes", &[Kind::Container])?;
    params.only(&[])?;
    let object = find(&api, &key)?;
    let backend = Arc::clone(&api.backend);
    let processes = blocking(move || backend.processes(&object.key)).await?;
    Ok(ok(&json!({"kind": "ProcessList", "items": processes})))
}

pub(super) async fn stats(State(api): State<Api>, one: One, params: Params) -> Result<Response, Refusal> {
    let key = one.with("stats", &[Kind::Container])?;
    params.only(&[])?;
    let object = find(&api, &key)?;
    let backend = Arc::clone(&api.backend);
    Ok(ok(&json!(blocking(move || backend.stats(&object.key)).await?)))
}

pub(super) async fn copy_from(
    State(api): State<Api>,
    one: One,
    params: Params,
    request: Request,
) -> Result<Response, Refusal> {
    let key = one.with("copyfrom", &[Kind::Container])?;
    params.only(&["path"])?;
    let path = path(&params)?;
    let upgrade = wanted_upgrade(request)?;
    let object = find(&api, &key)?;
    let backend = Arc::clone(&api.backend);
    let found = blocking(move || backend.copy_from(&object.key, &path)).await?;
    tokio::spawn(async move {
        if let Some((stream, _)) = upgraded(upgrade).await {
            found.serve(stream).await;
        }
    });
    Ok(switching())
}

pub(super) async fn copy_to(
    State(api): State<Api>,
    one: One,
    params: Params,
    request: Request,
) -> Result<Response, Refusal> {
    let key = one.with("copyto", &[Kind::Container])?;
    params.only(&["path", "name", "archive"])?;
    let (path, keep) = (path(&params)?, params.flag("archive")?);
    let name = params.get("name").map(str::to_owned);
    if name.as_deref().is_some_and(|name| name.contains('/') || matches!(name, "." | "..")) {
        return Err(Refusal::bad_request("name: must be that of a file, without a directory"));
    }
    let upgrade = wanted_upgrade(request)?;
    let object = find(&api, &key)?;
    let backend = Arc::clone(&api.backend);
    let place = blocking(move || backend.copy_to(&object.key, &path, name.as_deref(), keep)).await?;
    tokio::spawn(async move {
        if let Some((stream, read)) = upgraded(upgrade).await {
            place.serve(stream, &read).await;
        }
    });
    Ok(switching())
}

fn path(params: &Params) -> Result<String, Refusal> {
    let path =
        params.get("path").ok_or_else(|| Refusal::bad_request("path: required: a path in the container"))?;
    if path.contains('\0') {
        return Err(Refusal::bad_request("path: holds a zero byte"));
    }
    // As Docker has it, a relative one begins at the root.
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|error| ApiError::internal(format!("looking at the container failed: {error}")))?
}

pub(super) fn size(params: &Params) -> Result<(u16, u16), Refusal> {
    let number = |name: &str| -> Result<u16, Refusal> {
        let value = params.number(name)?.unwrap_or(0);
        u16::try_from(value)
            .map_err(|_| Refusal::bad_request(format!("{name}: {value} is too large for a terminal")))
    };
    Ok((number("rows")?, number("columns")?))
}

/// The connection that the client wants to go on with.
pub(super) fn wanted_upgrade(mut request: Request) -> Result<OnUpgrade, Refusal> {
    if !names(request.headers(), channels::PROTOCOL) {
        return Err(Refusal::new(
            426,
            "UpgradeRequired",
            format!(
                "send `Connection: Upgrade` and `Upgrade: {}`; this subresource talks over channels",
                channels::PROTOCOL
            ),
        ));
    }
    Ok(hyper::upgrade::on(&mut request))
}

fn names(headers: &HeaderMap, protocol: &str) -> bool {
    let mut wanted = headers.get_all(header::UPGRADE).iter().filter_map(|value| value.to_str().ok());
    wanted.any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(protocol)))
}

/// The bare connection, once the answer is sent, and what was read of it already.
pub(super) async fn upgraded(upgrade: OnUpgrade) -> Option<(UnixStream, Vec<u8>)> {
    let upgraded = upgrade.await.inspect_err(|error| tracing::debug!(%error, "an upgrade broke off")).ok()?;
    let Parts { io, read_buf, .. } = upgraded.downcast::<TokioIo<Stall<UnixStream>>>().ok()?;
    Some((io.into_inner().into_inner(), read_buf.to_vec()))
}

pub(super) fn switching() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(channels::PROTOCOL));
    response
}
