//! A server on a real socket that answers as it is told to.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// `/api/v1/…?…`
    pub(super) path: String,
    /// The token that it came with.
    pub(super) token: String,
}

/// What is answered.
pub(super) enum Reply {
    /// A whole answer, with more header lines.
    Json(u16, &'static str, Value),
    /// Lines as they come, then the end of the connection.
    Lines(mpsc::UnboundedReceiver<Value>),
    /// Nothing at all: the connection is closed.
    Close,
}

impl Reply {
    pub(super) fn ok(value: Value) -> Self {
        Self::Json(200, "", value)
    }

    /// A refusal as the API server has it.
    pub(super) fn status(code: u16, reason: &str) -> Self {
        Self::Json(code, "", json!({"kind": "Status", "code": code, "reason": reason, "message": "scripted"}))
    }

    /// There is no such object.
    pub(super) fn not_found(name: &str) -> Self {
        let details = json!({"name": name});
        Self::Json(404, "", json!({"kind": "Status", "code": 404, "reason": "NotFound", "details": details}))
    }

    /// A watch that says these and then waits, until the other end is dropped.
    pub(super) fn watch(events: &[Value]) -> (Self, mpsc::UnboundedSender<Value>) {
        let (send, lines) = mpsc::unbounded_channel();
        for event in events {
            send.send(event.clone()).expect("the other end is there");
        }
        (Self::Lines(lines), send)
    }
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The server, for as long as this is there.
pub(super) struct Server {
    pub(super) address: String,
    pub(super) asked: Arc<Mutex<Vec<Asked>>>,
    dir: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = format!("http://{}", listener.local_addr().expect("it has an address"));
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&log)));
            }
        });
        let dir = tempfile::tempdir().expect("a directory can be made");
        let server = Self { address, asked, dir, task };
        std::fs::write(server.token(), "first").expect("a file can be written");
        server.write_kubeconfig();
        server
    }

    /// Nobody listens from now on.
    pub(super) async fn stop(&self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    pub(super) fn token(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    fn write_kubeconfig(&self) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self.address}}],
            "users": [{"name": "u", "user": {"tokenFile": self.token()}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        replace(&self.kubeconfig(), &config.to_string());
    }

    /// The paths that were asked for, without their queries.
    pub(super) fn paths(&self) -> Vec<String> {
        let asked = self.asked.lock().expect("nobody panics with it");
        asked.iter().map(|asked| asked.path.split('?').next().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Puts a file in the place of another one.
pub(super) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("a file can be written");
    std::fs::rename(&new, path).expect("a file can be renamed");
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, log: Arc<Mutex<Vec<Asked>>>) {
    while let Some(asked) = read(&mut stream).await {
        log.lock().expect("nobody panics with it").push(asked.clone());
        let sent = match script(&asked) {
            Reply::Close => return,
            Reply::Json(code, more, value) => {
                let body = value.to_string();
                let head = format!(
                    "HTTP/1.1 {code} Scripted\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{more}\r\n",
                    body.len()
                );
                stream.write_all(format!("{head}{body}").as_bytes()).await
            }
            Reply::Lines(mut lines) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
                if stream.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
                while let Some(line) = lines.recv().await {
                    if stream.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                        return;
                    }
                }
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    let token = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
    Some(Asked { path, token: token.unwrap_or_default().to_owned() })
}
