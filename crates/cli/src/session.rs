//! One command's surroundings: settings, output and, once somebody asks for it, the client.

use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use perigee_client::Client;
use perigee_clock::Clock;
use std::cell::OnceCell;
use std::time::Duration;

/// An agent is waited for this long: the longest grace of a stop, and some.
const AGENT_PATIENCE: Duration = Duration::from_secs(4000);

/// One command's surroundings.
#[derive(Debug)]
pub struct Session {
    /// What was decided before.
    pub settings: Settings,
    /// Where everything printed goes.
    pub out: Output,
    /// Time.
    pub clock: Clock,
    client: OnceCell<Client>,
}

impl Session {
    /// Opens nothing yet: `version` and `help` work without a control plane.
    pub fn new(settings: Settings) -> Self {
        let clock = Clock::real();
        let out = Output::new(&settings, clock.clone());
        Self { settings, out, clock, client: OnceCell::new() }
    }

    /// The client for the control plane of these settings.
    pub fn client(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        if self.settings.agent {
            // It answers when the work is done.
            let client = Client::new(self.settings.agent_socket()?, None).with_patience(AGENT_PATIENCE);
            return Ok(self.client.get_or_init(|| client));
        }
        let (address, token) = self.settings.control_plane()?;
        Ok(self.client.get_or_init(|| Client::new(address, Some(token))))
    }
}
