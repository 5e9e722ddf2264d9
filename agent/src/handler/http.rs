//! `httpGet`: one GET, as kubelet's probes and hooks make it.

use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::{
    HeaderMap, Request,
    body::Bytes,
    header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use stower_crds::{ContainerPort, HttpGetAction, HttpProtocol, UriScheme};
use stower_runtime::ShimHandle;
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

use super::{HandlerError, Handlers, drive};

/// The most of a body that is read, in bytes; kubelet's bound.
pub(super) const MAX_BODY: usize = 10 << 10;
/// The most of an answer's head, in bytes.
const MAX_HEAD: u32 = 64 << 10;
/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// What a program answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpAnswer {
    /// The code. One of 300 to 399 is a redirect that was not followed: it leads to another host, or nowhere.
    pub(crate) status: u16,
    /// The beginning of the body.
    pub(crate) body: Vec<u8>,
    /// What was asked for last.
    pub(crate) url: String,
}

/// One request of a chain of redirects.
struct Ask<'a> {
    url: &'a Url,
    headers: &'a HeaderMap,
    host: Option<&'a HeaderValue>,
}

impl Handlers {
    /// Asks by HTTP. Redirects on the same host are followed.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn http_get(
        &self,
        container: &Arc<ShimHandle>,
        action: &HttpGetAction,
        ports: &[ContainerPort],
    ) -> Result<HttpAnswer, HandlerError> {
        let port = super::port(&action.port, ports)?;
        let mut url = url_of(action, port)?;
        let (headers, mut host) = headers(action)?;
        let http2 = action.protocol == Some(HttpProtocol::Http2);
        for _ in 0..MAX_REDIRECTS {
            let ask = Ask { url: &url, headers: &headers, host: host.as_ref() };
            let (mut answer, location) = self.ask(container, &ask, http2).await?;
            let target = location.filter(|_| matches!(answer.status, 301 | 302 | 303 | 307 | 308));
            let Some(target) = target else { return Ok(answer) };
            let next = url.join(&target).ok().filter(|next| matches!(next.scheme(), "http" | "https"));
            match next.filter(|next| next.host_str() == url.host_str()) {
                Some(next) => {
                    // Another name was for the first host; a place that is spelled out has its own.
                    if Url::parse(&target).is_ok() {
                        host = None;
                    }
                    url = next;
                }
                None => {
                    answer.url = url.into();
                    return Ok(answer);
                }
            }
        }
        Err(HandlerError::Redirects)
    }

    async fn ask(
        &self,
        container: &Arc<ShimHandle>,
        ask: &Ask<'_>,
        http2: bool,
    ) -> Result<(HttpAnswer, Option<String>), HandlerError> {
        let host = ask.url.host_str().unwrap_or("localhost");
        let port = ask.url.port_or_known_default().unwrap_or(80);
        let stream = self.connect(container, Some(host), port).await?;
        if ask.url.scheme() == "https" {
            // A name that is asked for by a header is the server's own.
            let name = ask.host.and_then(|host| host.to_str().ok()).map_or(host, |host| {
                host.rsplit_once(':')
                    .filter(|(_, port)| port.parse::<u16>().is_ok())
                    .map_or(host, |(name, _)| name)
            });
            let stream = self.tls.over(stream, name, false).await?;
            return http1(stream, ask).await;
        }
        if http2 { http2_get(stream, ask).await } else { http1(stream, ask).await }
    }
}

/// As kubelet makes it of an action: the path may have a query, never a host.
fn url_of(action: &HttpGetAction, port: u16) -> Result<Url, HandlerError> {
    let scheme = match action.scheme {
        UriScheme::Http => "http",
        UriScheme::Https => "https",
    };
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or("localhost");
    let host =
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let mut url = Url::parse(&format!("{scheme}://{host}:{port}/"))
        .map_err(|error| HandlerError::Request(format!("{host} is no host: {error}")))?;
    let path = action.path.split('#').next().unwrap_or_default();
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    url.set_path(path);
    url.set_query(query);
    Ok(url)
}

/// The headers of a request, and the host that it names in place of the one that is dialled. An empty value of one that is set
/// anyhow takes it away.
fn headers(action: &HttpGetAction) -> Result<(HeaderMap, Option<HeaderValue>), HandlerError> {
    let (mut headers, mut host) = (HeaderMap::new(), None);
    for header in &action.http_headers {
        let wrong = |what: &str| HandlerError::Request(format!("the {what} of header {:?}", header.name));
        let name: HeaderName = header.name.parse().map_err(|_| wrong("name"))?;
        let value = HeaderValue::from_bytes(header.value.as_bytes()).map_err(|_| wrong("value"))?;
        if name == HOST {
            host = Some(value).filter(|value| !value.is_empty());
        } else {
            headers.append(name, value);
        }
    }
    for (name, value) in [(USER_AGENT, super::USER_AGENT), (ACCEPT, "*/*")] {
        match headers.get(&name) {
            None => drop(headers.insert(name, HeaderValue::from_static(value))),
            Some(value) if value.is_empty() => drop(headers.remove(name)),
            Some(_) => {}
        }
    }
    Ok((headers, host))
}

/// The part of a URL that goes to a server of HTTP/1.1.
fn path_of(url: &Url) -> &str {
    &url[url::Position::BeforePath..url::Position::AfterQuery]
}

fn authority(url: &Url) -> &str {
    &url[url::Position::BeforeHost..url::Position::AfterPort]
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ask: &Ask<'_>,
) -> Result<(HttpAnswer, Option<String>), HandlerError> {
    let mut request = Request::get(path_of(ask.url))
        .body(Empty::<Bytes>::new())
        .map_err(|error| HandlerError::Request(error.to_string()))?;
    let host = match ask.host {
        Some(host) => host.clone(),
        None => HeaderValue::from_str(authority(ask.url))
            .map_err(|error| HandlerError::Request(error.to_string()))?,
    };
    request.headers_mut().insert(HOST, host);
    request.headers_mut().extend(ask.headers.clone());
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD as usize)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(HandlerError::Http1)?;
    drive(connection, async move {
        let response = sender.send_request(request).await.map_err(HandlerError::Http1)?;
        let (head, mut rest) = response.into_parts();
        let mut body = Vec::new();
        while body.len() < MAX_BODY {
            let Some(frame) = rest.frame().await else { break };
            let frame = frame.map_err(HandlerError::Http1)?;
            take(&mut body, frame.data_ref().map_or(&[][..], |data| data));
        }
        Ok(answer(ask.url, head.status.as_u16(), &head.headers, body))
    })
    .await
}

async fn http2_get(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    ask: &Ask<'_>,
) -> Result<(HttpAnswer, Option<String>), HandlerError> {
    // In HTTP/2 the name that is asked for is the authority.
    let host = ask.host.and_then(|host| host.to_str().ok()).unwrap_or_else(|| authority(ask.url));
    let mut request = Request::get(format!("http://{host}{}", path_of(ask.url)))
        .version(hyper::Version::HTTP_2)
        .body(())
        .map_err(|error| HandlerError::Request(error.to_string()))?;
    request.headers_mut().extend(ask.headers.clone());
    let (sender, connection) = handshake(stream).await?;
    drive(connection, async move {
        let mut sender = sender.ready().await.map_err(HandlerError::Http2)?;
        let (response, _) = sender.send_request(request, true).map_err(HandlerError::Http2)?;
        let (head, mut rest) = response.await.map_err(HandlerError::Http2)?.into_parts();
        let body = read(&mut rest, MAX_BODY).await?;
        Ok(answer(ask.url, head.status.as_u16(), &head.headers, body))
    })
    .await
}

/// A connection of HTTP/2, with little room for what a server may send.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
) -> Result<(h2::client::SendRequest<Bytes>, h2::client::Connection<S, Bytes>), HandlerError> {
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEAD).max_concurrent_reset_streams(2);
    builder.handshake(stream).await.map_err(HandlerError::Http2)
}

/// The beginning of a body of HTTP/2.
pub(super) async fn read(stream: &mut h2::RecvStream, most: usize) -> Result<Vec<u8>, HandlerError> {
    let mut body = Vec::new();
    while body.len() < most {
        let Some(data) = stream.data().await else { break };
        let data = data.map_err(HandlerError::Http2)?;
        // A connection that ends in between has given what there was.
        let _ = stream.flow_control().release_capacity(data.len());
        take(&mut body, &data);
    }
    body.truncate(most);
    Ok(body)
}

fn take(body: &mut Vec<u8>, data: &[u8]) {
    body.extend_from_slice(&data[..data.len().min(MAX_BODY - body.len().min(MAX_BODY))]);
}

fn answer(url: &Url, status: u16, headers: &HeaderMap, body: Vec<u8>) -> (HttpAnswer, Option<String>) {
    let location = headers.get(LOCATION).and_then(|at| at.to_str().ok()).map(str::to_owned);
    (HttpAnswer { status, body, url: url.to_string() }, location)
}
