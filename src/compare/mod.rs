//! `turnstile compare`: the same script straight to PostgreSQL and through a running Turnstile; what comes back must be the
//! same, message for message, byte for byte, but for what differs between any two runs.
//!
//! Each run has a database of its own, made by the same steps. A script runs directly twice: a message whose contents
//! differ between these two (a clock, a random number) is compared by its type only.

mod conversation;
pub mod script;
pub mod transcript;

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};

use self::conversation::{Conversation, Until};
use self::script::{Flight, Mode};
use self::transcript::{Answers, Ending, Masker, Outcome, compare};
use crate::app::say;
use crate::catalog::control;
use crate::cli::CompareArgs;
use crate::config::{ServerUrl, parse_server};
use crate::versions;
use crate::wire::encode;
use crate::wire::message_type::frontend;

/// What the databases of the runs are called, with a number of [`NUMBER_DIGITS`] digits behind: names of one length,
/// so that no message is longer because of it.
const DATABASE: &str = "turnstile_compare";
/// Digits of the number behind [`DATABASE`].
const NUMBER_DIGITS: usize = 4;

/// `turnstile compare`; the answer is whether there was no difference.
///
/// # Errors
/// When a side cannot be reached, or a script cannot be read.
pub async fn run(args: CompareArgs) -> anyhow::Result<bool> {
    let mut comparison = Comparison::new(&args).await?;
    let mut total = Total::default();
    for path in &args.scripts {
        for (what, flights) in flights_of(path, &args.modes)? {
            total.add(comparison.run(&what, &flights).await?);
        }
    }
    say(&format!(
        "{} comparisons: {} same, {} different, {} not steady\n",
        total.same + total.different + total.unsteady,
        total.same,
        total.different,
        total.unsteady
    ))?;
    Ok(total.different == 0 && total.unsteady == 0)
}

#[derive(Debug, Default, Clone, Copy)]
struct Total {
    same: usize,
    different: usize,
    unsteady: usize,
}

impl Total {
    const fn add(&mut self, other: Self) {
        self.same += other.same;
        self.different += other.different;
        self.unsteady += other.unsteady;
    }
}

/// A script in each way in which it can be sent, with a name for people.
fn flights_of(path: &Path, modes: &[Mode]) -> anyhow::Result<Vec<(String, Vec<Flight>)>> {
    let name = path.display().to_string();
    let text = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    if path.extension().is_some_and(|ending| ending == "wire") {
        let text = String::from_utf8(text).with_context(|| format!("{name} is not UTF-8"))?;
        return Ok(vec![(name.clone(), script::messages(&text).with_context(|| name)?)]);
    }
    let mut all = Vec::new();
    for mode in modes {
        if let Some(flights) = script::sql(&text, *mode).with_context(|| name.clone())? {
            all.push((format!("{name}, {}", format!("{mode:?}").to_lowercase()), flights));
        }
    }
    Ok(all)
}

struct Comparison {
    direct: ServerUrl,
    through: ServerUrl,
    /// For CREATE DATABASE.
    control: tokio_postgres::Client,
    template: String,
    setup: Option<String>,
    in_place: bool,
    pieces: Vec<usize>,
    runs: usize,
}

impl Comparison {
    async fn new(args: &CompareArgs) -> anyhow::Result<Self> {
        let direct = parse_server("server", &args.server)?;
        let through = parse_server("through", &args.through)?;
        let control = control::connect(&direct).await.context("--server")?;
        let setup = match &args.setup {
            Some(path) => Some(
                std::fs::read_to_string(path).with_context(|| format!("cannot read the setup {}", path.display()))?,
            ),
            None => None,
        };
        let (template, pieces) = (args.template.clone(), args.pieces.clone());
        Ok(Self { direct, through, control, template, setup, in_place: args.in_place, pieces, runs: 0 })
    }

    /// A script, in pieces of each size.
    async fn run(&mut self, what: &str, flights: &[Flight]) -> anyhow::Result<Total> {
        let direct = self.transcript(false, flights, usize::MAX, None).await?;
        let again = self.transcript(false, flights, usize::MAX, Some(&direct)).await?;
        let mut total = Total::default();
        for piece in self.pieces.clone() {
            let bytes = if piece == 0 { usize::MAX } else { piece };
            let through = self.transcript(true, flights, bytes, Some(&direct)).await?;
            let pieces = if piece == 0 { String::new() } else { format!(", in pieces of {piece}") };
            match compare(&direct, &again, &through) {
                Outcome::Same { messages, unsteady } => {
                    let note = if unsteady == 0 {
                        String::new()
                    } else {
                        format!(", of {unsteady} only the type: they differ between direct runs, too")
                    };
                    say(&format!("same       {what}{pieces}: {messages} messages{note}\n"))?;
                    total.same += 1;
                }
                Outcome::Unsteady(line) => {
                    say(&format!("not steady {what}{pieces}: two direct runs differ from line {line} on\n"))?;
                    total.unsteady += 1;
                }
                Outcome::Different { line, direct, through } => {
                    say(&format!(
                        "DIFFERENT  {what}{pieces}, line {line}:\n    direct   {direct}\n    through  {through}\n"
                    ))?;
                    total.different += 1;
                }
            }
        }
        Ok(total)
    }

    /// One run, in a database of its own.
    async fn transcript(
        &mut self,
        through: bool,
        flights: &[Flight],
        piece: usize,
        like: Option<&[Answers]>,
    ) -> anyhow::Result<Vec<Answers>> {
        self.runs += 1;
        let database = if self.in_place {
            let named = self.direct.config.get_dbname().or_else(|| self.direct.config.get_user());
            named.context("the connection string names no database")?.to_owned()
        } else {
            format!("{DATABASE}_{:0NUMBER_DIGITS$}", self.runs)
        };
        if !self.in_place {
            self.create(&database).await?;
        }
        let url = if through { &self.through } else { &self.direct };
        let said = match self.prepare(&database).await {
            Ok(masker) => converse(url, &database, masker, flights, piece, like).await,
            Err(error) => Err(error),
        };
        if !self.in_place {
            let drop = format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)");
            self.control.batch_execute(&drop).await.with_context(|| format!("cannot drop database {database}"))?;
        }
        said
    }

    async fn create(&self, database: &str) -> anyhow::Result<()> {
        let template = postgres_protocol::escape::escape_identifier(&self.template);
        let create = format!("CREATE DATABASE {database} TEMPLATE {template}");
        self.control
            .batch_execute(&create)
            .await
            .map_err(|error| anyhow!("cannot create database {database}: {}", control::pg_words(&error)))
    }

    /// The same steps for each run.
    async fn prepare(&self, database: &str) -> anyhow::Result<Masker> {
        let mut url = self.direct.clone();
        url.config.dbname(database);
        let client = control::connect(&url).await.with_context(|| format!("database {database}"))?;
        if !self.in_place {
            versions::install(&client).await?;
        }
        if let Some(setup) = &self.setup
            && let Err(error) = client.batch_execute(setup).await
        {
            bail!("the setup failed: {}", control::pg_words(&error));
        }
        let sql = "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = 'turbo'";
        let relations = client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        let shown = (!self.in_place).then(|| (database.to_owned(), DATABASE.to_owned()));
        Ok(Masker::new(shown, relations))
    }
}

/// Says it all, and goodbye.
async fn converse(
    url: &ServerUrl,
    database: &str,
    masker: Masker,
    flights: &[Flight],
    piece: usize,
    like: Option<&[Answers]>,
) -> anyhow::Result<Vec<Answers>> {
    let (mut conversation, login) = Conversation::log_in(url, database, masker).await?;
    let mut answers = vec![login];
    for flight in flights {
        let known = like.and_then(|like| like.get(answers.len()));
        let until = match known {
            None => Until::Ready(flight.answers),
            Some(known) if known.ending == Ending::Closed => Until::End,
            Some(known) => Until::Messages(known.messages.len(), known.ending),
        };
        answers.push(conversation.exchange(flight, piece, until).await?);
    }
    let line = flights.last().map_or(0, |flight| flight.line);
    let goodbye = Flight { line, bytes: encode::message(frontend::TERMINATE, &[]), answers: 0 };
    answers.push(conversation.exchange(&goodbye, piece, Until::End).await?);
    Ok(answers)
}
