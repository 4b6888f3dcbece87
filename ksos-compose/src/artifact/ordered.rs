//! Work on the pieces of a stream by several threads, with results in the order of the pieces. Memory is bounded: at
//! most twice as many pieces as threads are under way.

use std::collections::VecDeque;
use std::io;

use crossbeam_channel::{Receiver, Sender, bounded};

struct Job<I, O> {
    piece: I,
    reply: Sender<O>,
}

/// Takes the pieces of a stream and hands their results on.
pub struct Queue<'a, I, O, E> {
    jobs: Sender<Job<I, O>>,
    results: VecDeque<Receiver<O>>,
    ahead: usize,
    consume: &'a mut dyn FnMut(O) -> Result<(), E>,
}

impl<I, O, E: From<io::Error>> Queue<'_, I, O, E> {
    /// Gives `piece` to the next free thread.
    ///
    /// # Errors
    /// Those of `consume`.
    pub fn push(&mut self, piece: I) -> Result<(), E> {
        let (reply, result) = bounded(1);
        self.jobs.send(Job { piece, reply }).map_err(|_| ended())?;
        self.results.push_back(result);
        while self.results.len() > self.ahead {
            self.consume_one()?;
        }
        Ok(())
    }

    fn consume_one(&mut self) -> Result<(), E> {
        let Some(result) = self.results.pop_front() else { return Ok(()) };
        (self.consume)(result.recv().map_err(|_| ended())?)
    }
}

fn ended() -> io::Error {
    io::Error::other("a working thread ended early")
}

/// Runs `produce`, which pushes pieces; `work` makes the result of each, in one of `workers` threads with a state of its
/// own from `state`; `consume` gets the results in the order of the pieces.
///
/// # Errors
/// Those of `produce` and `consume`.
pub fn ordered<I: Send, O: Send, S, E: From<io::Error>>(
    workers: usize,
    state: &(impl Fn() -> S + Sync),
    work: &(impl Fn(&mut S, I) -> O + Sync),
    produce: impl FnOnce(&mut Queue<'_, I, O, E>) -> Result<(), E>,
    consume: &mut dyn FnMut(O) -> Result<(), E>,
) -> Result<(), E> {
    let workers = workers.max(1);
    let (jobs, queued) = bounded::<Job<I, O>>(workers);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let queued = queued.clone();
            scope.spawn(move || {
                let mut state = state();
                for job in queued {
                    // After an error nobody waits.
                    let _ = job.reply.send(work(&mut state, job.piece));
                }
            });
        }
        drop(queued);
        let mut queue = Queue { jobs, results: VecDeque::new(), ahead: 2 * workers, consume };
        produce(&mut queue)?;
        while !queue.results.is_empty() {
            queue.consume_one()?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_whatever_the_number_of_threads() {
        for workers in [0, 1, 3] {
            let mut seen = Vec::new();
            ordered::<u64, u64, (), io::Error>(
                workers,
                &|| (),
                &|(), piece| piece * piece,
                |queue| (0..100).try_for_each(|piece| queue.push(piece)),
                &mut |result| {
                    seen.push(result);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, (0..100).map(|piece| piece * piece).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn an_error_of_the_consumer_ends_the_work() {
        let result = ordered::<u64, u64, (), io::Error>(
            2,
            &|| (),
            &|(), piece| piece,
            |queue| (0..1000).try_for_each(|piece| queue.push(piece)),
            &mut |result| if result == 3 { Err(io::Error::other("full")) } else { Ok(()) },
        );
        assert_eq!(result.unwrap_err().to_string(), "full");
    }
}
