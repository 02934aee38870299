//! Chunks of backups on their way, over conversations that are kept open from one chunk to the next.
//!
//! Owns: which conversations lie idle, and the order of words in each. Refuses: protocols; both forms of
//! the uplink only open one. A conversation that lay idle may have ended without anybody's fault, so what
//! fails on it is asked again on a fresh one; both questions may be asked twice.

use super::UplinkError;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use perigee_agent_api::{CHUNK_PIECE_BYTES_MAX, ChunkDown, ChunkFailed, ChunkFault, ChunkStored, ChunkUp};
use perigee_model::Digest;
use perigee_model::limits::BACKUP_INDEX_BYTES_MAX;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Pieces under way between a conversation and its connection.
pub const PIECES: usize = 2;
/// No word takes longer than this, be it that its disk is slow or that others are before it.
const WORD_WITHIN: Duration = Duration::from_secs(120);
/// Most conversations that lie idle.
const IDLE_MAX: usize = 8;

/// Opens conversations about chunks.
#[async_trait]
pub trait OpensChunks: Sync {
    /// Opens one.
    ///
    /// # Errors
    /// `Away`, `Certificate`, `Refused`.
    async fn open_chunks(&self) -> Result<Conversation, UplinkError>;
}

/// Both ends of one.
pub struct Conversation {
    tx: mpsc::Sender<ChunkUp>,
    rx: mpsc::Receiver<ChunkDown>,
}

/// Those that nobody speaks in now.
#[derive(Default)]
pub struct Idle(Mutex<Vec<Conversation>>);

impl Idle {
    /// Gives them all up.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// See [`super::Uplink::push_chunk`].
    pub async fn push(
        &self,
        opens: &dyn OpensChunks,
        (sealed, digest): (bool, &Digest),
        bytes: Bytes,
    ) -> Result<ChunkStored, UplinkError> {
        loop {
            let (mut talk, lay_idle) = self.take(opens).await?;
            let answer = talk.push(sealed, digest, &bytes).await;
            if self.settle(talk, &answer, lay_idle) {
                return answer;
            }
        }
    }

    /// See [`super::Uplink::fetch_chunk`].
    pub async fn fetch(
        &self,
        opens: &dyn OpensChunks,
        (sealed, digest): (bool, &Digest),
    ) -> Result<Bytes, UplinkError> {
        loop {
            let (mut talk, lay_idle) = self.take(opens).await?;
            let answer = talk.fetch(sealed, digest).await;
            if self.settle(talk, &answer, lay_idle) {
                return answer;
            }
        }
    }

    /// One of those that lie idle, or a fresh one.
    async fn take(&self, opens: &dyn OpensChunks) -> Result<(Conversation, bool), UplinkError> {
        let idle = self.lock().pop();
        match idle {
            Some(talk) => Ok((talk, true)),
            None => Ok((opens.open_chunks().await?, false)),
        }
    }

    /// Keeps a conversation that can go on. Whether the answer stands.
    fn settle<T>(&self, talk: Conversation, answer: &Result<T, UplinkError>, lay_idle: bool) -> bool {
        if matches!(answer, Err(UplinkError::Away(_))) {
            return !lay_idle;
        }
        let mut idle = self.lock();
        if idle.len() < IDLE_MAX {
            idle.push(talk);
        }
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Conversation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Conversation {
    /// Over these queues.
    pub fn new(tx: mpsc::Sender<ChunkUp>, rx: mpsc::Receiver<ChunkDown>) -> Self {
        Self { tx, rx }
    }

    async fn push(&mut self, sealed: bool, digest: &Digest, bytes: &Bytes) -> Result<ChunkStored, UplinkError> {
        self.say(ChunkUp::Offer { sealed, digest: digest.clone(), bytes: bytes.len() as u64 }).await?;
        match self.heard().await? {
            ChunkDown::Send => {}
            ChunkDown::Stored(stored) => return Ok(stored),
            other => return Err(instead(other)),
        }
        for piece in bytes.chunks(CHUNK_PIECE_BYTES_MAX) {
            self.say(ChunkUp::Data(piece.to_vec())).await?;
        }
        match self.heard().await? {
            ChunkDown::Stored(stored) => Ok(stored),
            other => Err(instead(other)),
        }
    }

    async fn fetch(&mut self, sealed: bool, digest: &Digest) -> Result<Bytes, UplinkError> {
        self.say(ChunkUp::Want { sealed, digest: digest.clone() }).await?;
        let bytes = match self.heard().await? {
            ChunkDown::Comes { bytes } => usize::try_from(bytes).unwrap_or(usize::MAX),
            other => return Err(instead(other)),
        };
        if bytes > BACKUP_INDEX_BYTES_MAX {
            return Err(out_of_turn());
        }
        let mut whole = BytesMut::with_capacity(bytes);
        while whole.len() < bytes {
            match self.heard().await? {
                ChunkDown::Data(piece) if !piece.is_empty() && piece.len() <= bytes - whole.len() => {
                    whole.extend_from_slice(&piece);
                }
                _ => return Err(out_of_turn()),
            }
        }
        Ok(whole.freeze())
    }

    async fn say(&self, word: ChunkUp) -> Result<(), UplinkError> {
        match tokio::time::timeout(WORD_WITHIN, self.tx.send(word)).await {
            Ok(said) => said.map_err(|_| UplinkError::Away("the conversation broke".to_owned())),
            Err(_) => Err(UplinkError::Away("nothing is taken".to_owned())),
        }
    }

    async fn heard(&mut self) -> Result<ChunkDown, UplinkError> {
        match tokio::time::timeout(WORD_WITHIN, self.rx.recv()).await {
            Ok(heard) => heard.ok_or_else(|| UplinkError::Away("the conversation broke".to_owned())),
            Err(_) => Err(UplinkError::Away("no answer comes".to_owned())),
        }
    }
}

/// What another answer than the one that was waited for means.
fn instead(answer: ChunkDown) -> UplinkError {
    match answer {
        ChunkDown::Missing => UplinkError::NotFound,
        ChunkDown::Failed(ChunkFailed { fault, text }) => match fault {
            ChunkFault::NoSpace => UplinkError::NoSpace(text),
            ChunkFault::Damaged => UplinkError::Damaged(text),
            ChunkFault::Refused => UplinkError::Refused(text),
        },
        ChunkDown::Send | ChunkDown::Stored(_) | ChunkDown::Comes { .. } | ChunkDown::Data(_) => out_of_turn(),
    }
}

/// Nothing that follows can be understood: the conversation is given up.
fn out_of_turn() -> UplinkError {
    UplinkError::Away("an answer came out of turn".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    type Server = (mpsc::Receiver<ChunkUp>, mpsc::Sender<ChunkDown>);

    /// Hands the other end of each conversation to the test.
    struct Opens {
        opened: AtomicUsize,
        servers: mpsc::UnboundedSender<Server>,
    }

    #[async_trait]
    impl OpensChunks for Opens {
        async fn open_chunks(&self) -> Result<Conversation, UplinkError> {
            self.opened.fetch_add(1, Ordering::Relaxed);
            let ((tx, from_agent), (to_agent, rx)) = (mpsc::channel(PIECES), mpsc::channel(PIECES));
            self.servers.send((from_agent, to_agent)).map_err(|_| UplinkError::Away("refused".to_owned()))?;
            Ok(Conversation::new(tx, rx))
        }
    }

    fn opens() -> (Opens, mpsc::UnboundedReceiver<Server>) {
        let (servers, opened) = mpsc::unbounded_channel();
        (Opens { opened: AtomicUsize::new(0), servers }, opened)
    }

    fn digest() -> Digest {
        Digest::parse(&"a".repeat(64)).unwrap()
    }

    const STORED: ChunkStored = ChunkStored { new: true, stored_bytes: 7 };

    /// Takes one chunk, and says how many bytes it had.
    async fn take_one((from_agent, to_agent): &mut Server) -> u64 {
        let Some(ChunkUp::Offer { bytes, .. }) = from_agent.recv().await else { panic!("no offer") };
        to_agent.send(ChunkDown::Send).await.unwrap();
        let mut taken = 0;
        while taken < bytes {
            let Some(ChunkUp::Data(piece)) = from_agent.recv().await else { panic!("no piece") };
            taken += piece.len() as u64;
        }
        to_agent.send(ChunkDown::Stored(STORED)).await.unwrap();
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn one_conversation_serves_many_chunks_and_an_ended_one_is_replaced() {
        let ((opens, mut servers), idle, digest) = (opens(), Idle::default(), digest());
        let served = tokio::spawn(async move {
            let mut first = servers.recv().await.unwrap();
            let bytes = [take_one(&mut first).await, take_one(&mut first).await];
            // It is idle for too long; the agent does not know yet.
            drop(first);
            let mut second = servers.recv().await.unwrap();
            (bytes, take_one(&mut second).await, second)
        });
        let large = Bytes::from(vec![7; 3 * CHUNK_PIECE_BYTES_MAX + 1]);
        for bytes in [large.clone(), Bytes::from_static(b"x"), large] {
            assert_eq!(idle.push(&opens, (true, &digest), bytes).await.unwrap(), STORED);
        }
        let (bytes, last, _) = served.await.unwrap();
        assert_eq!((bytes, last), ([3 * (256 << 10) + 1, 1], 3 * (256 << 10) + 1));
        assert_eq!(opens.opened.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_breaks_while_it_is_fresh_is_told_and_not_kept() {
        let ((opens, mut servers), idle, digest) = (opens(), Idle::default(), digest());
        let pushed = async { idle.push(&opens, (false, &digest), Bytes::from_static(b"x")).await };
        let (pushed, ()) = tokio::join!(pushed, async { drop(servers.recv().await.unwrap()) });
        assert!(matches!(pushed, Err(UplinkError::Away(_))), "{pushed:?}");
        let silent = idle.fetch(&opens, (false, &digest));
        let (fetched, _server) = tokio::join!(silent, servers.recv());
        assert!(matches!(fetched, Err(UplinkError::Away(_))), "two minutes are enough: {fetched:?}");
        assert!(idle.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_understood_and_what_comes_out_of_turn_is_not() {
        let failed = |fault| ChunkDown::Failed(ChunkFailed { fault, text: "why".to_owned() });
        let answers = [
            (ChunkDown::Missing, "NotFound", 1),
            (failed(ChunkFault::NoSpace), "NoSpace(\"why\")", 1),
            (failed(ChunkFault::Damaged), "Damaged(\"why\")", 1),
            (failed(ChunkFault::Refused), "Refused(\"why\")", 1),
            (ChunkDown::Send, "Away(\"an answer came out of turn\")", 0),
            (ChunkDown::Comes { bytes: 1 << 40 }, "Away(\"an answer came out of turn\")", 0),
            (ChunkDown::Data(vec![1]), "Away(\"an answer came out of turn\")", 0),
        ];
        for (answer, told, kept) in answers {
            let ((opens, mut servers), idle, digest) = (opens(), Idle::default(), digest());
            let server = async {
                let (mut from_agent, to_agent) = servers.recv().await.unwrap();
                from_agent.recv().await.unwrap();
                to_agent.send(answer).await.unwrap();
                (from_agent, to_agent)
            };
            let (fetched, _server) = tokio::join!(idle.fetch(&opens, (false, &digest)), server);
            assert_eq!(format!("{:?}", fetched.unwrap_err()), told);
            assert_eq!(idle.lock().len(), kept, "{told}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_are_put_together_and_too_many_bytes_are_not_taken() {
        for (pieces, whole) in [(vec![2, 3], true), (vec![2, 4], false), (vec![2, 0, 3], false), (vec![5], true)] {
            let ((opens, mut servers), idle, digest) = (opens(), Idle::default(), digest());
            let server = async {
                let (mut from_agent, to_agent) = servers.recv().await.unwrap();
                from_agent.recv().await.unwrap();
                to_agent.send(ChunkDown::Comes { bytes: 5 }).await.unwrap();
                for length in &pieces {
                    drop(to_agent.send(ChunkDown::Data(vec![9; *length])).await);
                }
                (from_agent, to_agent)
            };
            let (fetched, _server) = tokio::join!(idle.fetch(&opens, (false, &digest)), server);
            assert_eq!(fetched.is_ok_and(|bytes| bytes == [9; 5][..]), whole, "{pieces:?}");
        }
    }
}
