//! A connection whose other end has to take what it is sent: who asks for much and reads nothing would
//! hold a place otherwise.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream that fails where writing makes no progress for as long as its patience lasts.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    limit: Duration,
    /// How long there is still patience with the present write; absent while there is progress.
    left: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// The same stream, which waits for its reader for `limit`.
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, left: None }
    }

    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.left = None;
            return polled;
        }
        let limit = self.limit;
        let left = self.left.get_or_insert_with(|| Box::pin(sleep(limit)));
        let is_over = left.as_mut().poll(context).is_ready();
        let error = || io::Error::new(ErrorKind::TimedOut, "it does not read its answer");
        if is_over { Poll::Ready(Err(error())) } else { Poll::Pending }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn who_reads_slowly_is_waited_for_and_who_does_not_read_is_left() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap_or_else(|e| panic!("{e}")).block_on(async {
            let (ours, mut theirs) = duplex(16);
            let mut ours = Patient::new(ours, Duration::from_millis(500));
            let reader = tokio::spawn(async move {
                let mut read = [0; 8];
                for _ in 0..8 {
                    sleep(Duration::from_millis(1)).await;
                    theirs.read_exact(&mut read).await.unwrap_or_else(|e| panic!("{e}"));
                }
                theirs
            });
            ours.write_all(&[7; 64]).await.unwrap_or_else(|e| panic!("{e}"));
            let mut theirs = reader.await.unwrap_or_else(|e| panic!("{e}"));
            let ended = ours.write_all(&[7; 64]).await.map_err(|error| error.kind());
            assert_eq!(ended, Err(ErrorKind::TimedOut));
            assert!(theirs.read_u8().await.is_ok_and(|byte| byte == 7), "what was sent is there");
        });
    }
}
