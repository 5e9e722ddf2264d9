//! From a compressed blob to the bytes of its tar stream, with decompression and hashing on a thread of their own.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::{LayerError, UnpackLimits};
use crate::digest::{DiffId, Digest, Hasher};

/// How a layer's tar stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar stream.
    None,
    /// One or more gzip members.
    Gzip,
    /// One or more zstd frames.
    Zstd,
}

/// Opens a blob. May block until it is there. It is called once, and a second time only when the layer turns out
/// to need its parent (it writes through a symbolic link of a lower layer, or links to a file of one).
pub type OpenBlob = Box<dyn FnMut() -> io::Result<Box<dyn Read + Send>> + Send>;

/// One layer of an image as it comes from a store of content.
pub struct LayerBlob {
    /// Digest of the uncompressed tar stream, from the image configuration.
    pub diff_id: DiffId,
    /// How the blob is packed.
    pub compression: Compression,
    /// Bytes of the blob, compressed.
    pub size: u64,
    /// Opens it.
    pub open: OpenBlob,
}

impl std::fmt::Debug for LayerBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerBlob")
            .field("diff_id", &self.diff_id)
            .field("compression", &self.compression)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Bytes in one buffer: big enough that most files lie within one, small enough to stay in a core's cache.
const CHUNK: usize = 256 << 10;
/// Buffers under way between the two threads.
const CHUNKS: usize = 8;

enum Message {
    Data(Vec<u8>),
    End(Digest),
    Failed(Failure),
}

enum Failure {
    Io(io::Error),
    Limit(&'static str, u64),
}

/// The tar stream of a layer. [`Stream::verify`] tells whether all of it was what the image promised.
pub struct Stream {
    expected: DiffId,
    incoming: Option<Receiver<Message>>,
    spent: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    end: Option<Result<Digest, Failure>>,
    worker: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Stream {
    /// Opens `layer` and begins to decompress it.
    pub fn open(layer: &mut LayerBlob, limits: &UnpackLimits) -> Result<Self, LayerError> {
        let raw = (layer.open)().map_err(LayerError::Read)?;
        Self::start(raw, layer, limits)
    }

    /// Begins to decompress what was opened.
    pub(crate) fn start(
        raw: Box<dyn Read + Send>,
        layer: &LayerBlob,
        limits: &UnpackLimits,
    ) -> Result<Self, LayerError> {
        let (to, incoming) = sync_channel(CHUNKS);
        let (spent, recycled) = channel();
        let compression = layer.compression;
        let limits = limits.clone();
        let worker = std::thread::Builder::new()
            .name("layer-read".into())
            .spawn(move || {
                let last = match pump(raw, compression, &limits, &to, &recycled) {
                    Ok(Some(digest)) => Message::End(digest),
                    Ok(None) => return,
                    Err(failure) => Message::Failed(failure),
                };
                // The reader may be gone already; then nobody needs the verdict.
                let _ = to.send(last);
            })
            .map_err(LayerError::Read)?;
        Ok(Self {
            expected: layer.diff_id,
            incoming: Some(incoming),
            spent,
            chunk: Vec::new(),
            at: 0,
            end: None,
            worker: Some(worker),
        })
    }

    /// Reads what is left (bytes after the end of the archive belong to the digest too) and compares the diff id.
    pub fn verify(mut self) -> Result<(), LayerError> {
        loop {
            let left = match self.fill_buf() {
                Ok(piece) => piece.len(),
                Err(error) => return Err(self.explain(error)),
            };
            if left == 0 {
                break;
            }
            self.consume(left);
        }
        match self.end.take() {
            Some(Ok(found)) if found == self.expected.0 => Ok(()),
            Some(Ok(found)) => Err(LayerError::DiffId { expected: self.expected, found: DiffId(found) }),
            _ => Err(LayerError::Read(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// The typed reason behind an error that reading gave.
    pub(crate) fn explain(&mut self, error: io::Error) -> LayerError {
        match self.end.take() {
            Some(Err(Failure::Limit(what, limit))) => LayerError::Limit { what, limit },
            Some(Err(Failure::Io(source))) => LayerError::Read(source),
            _ => LayerError::Read(error),
        }
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() && self.end.is_none() {
            // The worker may have ended; then the buffer is simply freed.
            let _ = self.spent.send(std::mem::take(&mut self.chunk));
            self.at = 0;
            let message = self.incoming.as_ref().and_then(|incoming| incoming.recv().ok());
            match message {
                Some(Message::Data(chunk)) => self.chunk = chunk,
                Some(Message::End(digest)) => self.end = Some(Ok(digest)),
                Some(Message::Failed(failure)) => self.end = Some(Err(failure)),
                None => self.end = Some(Err(Failure::Io(io::Error::other("the reading thread is gone")))),
            }
        }
        if self.at == self.chunk.len() && matches!(self.end, Some(Err(_))) {
            return Err(io::Error::other("cannot read the layer"));
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.chunk.len());
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let amount = from.len().min(buffer.len());
        buffer[..amount].copy_from_slice(&from[..amount]);
        self.consume(amount);
        Ok(amount)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Without a receiver the worker ends at its next buffer.
        self.incoming = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// Counts the compressed bytes that were read.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += u64::try_from(read).unwrap_or(u64::MAX);
        Ok(read)
    }
}

type Blob = Counted<Box<dyn Read + Send>>;

/// A decompressor that can say how much it has read.
enum Source {
    Plain(Blob),
    Gzip(Box<flate2::bufread::MultiGzDecoder<io::BufReader<Blob>>>),
    Zstd(zstd::stream::read::Decoder<'static, io::BufReader<Blob>>),
}

impl Source {
    fn new(raw: Box<dyn Read + Send>, compression: Compression) -> io::Result<Self> {
        let counted = Counted { inner: raw, count: 0 };
        let buffered = |counted| io::BufReader::with_capacity(CHUNK, counted);
        Ok(match compression {
            Compression::None => Self::Plain(counted),
            Compression::Gzip => {
                Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(buffered(counted))))
            }
            Compression::Zstd => Self::Zstd(zstd::stream::read::Decoder::with_buffer(buffered(counted))?),
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(from) => from.read(buffer),
            Self::Gzip(from) => from.read(buffer),
            Self::Zstd(from) => from.read(buffer),
        }
    }

    fn compressed(&self) -> u64 {
        match self {
            Self::Plain(from) => from.count,
            Self::Gzip(from) => from.get_ref().get_ref().count,
            Self::Zstd(from) => from.get_ref().get_ref().count,
        }
    }
}

/// `None` when nobody listens any more.
fn pump(
    raw: Box<dyn Read + Send>,
    compression: Compression,
    limits: &UnpackLimits,
    to: &SyncSender<Message>,
    recycled: &Receiver<Vec<u8>>,
) -> Result<Option<Digest>, Failure> {
    let mut source = Source::new(raw, compression).map_err(Failure::Io)?;
    let mut hasher = Hasher::new();
    let mut total = 0u64;
    loop {
        let mut chunk = recycled.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        let mut ended = false;
        while filled < CHUNK {
            match source.read(&mut chunk[filled..]) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Io(error)),
            }
        }
        chunk.truncate(filled);
        total += u64::try_from(filled).unwrap_or(u64::MAX);
        if total > limits.max_bytes {
            return Err(Failure::Limit("bytes uncompressed", limits.max_bytes));
        }
        if total > limits.ratio_from && total / limits.max_ratio.max(1) > source.compressed() {
            return Err(Failure::Limit("uncompressed bytes for a compressed one", limits.max_ratio));
        }
        hasher.update(&chunk);
        if !chunk.is_empty() && to.send(Message::Data(chunk)).is_err() {
            return Ok(None);
        }
        if ended {
            return Ok(Some(hasher.finish()));
        }
    }
}
