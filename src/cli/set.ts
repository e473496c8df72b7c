// lunsync set: replication sets, of one source and any number of replicas.
import { resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { AgentError, exitStatus, messageOf } from "../base/errors.ts";
import { defaultDigest, parseDigestSpec } from "../digest/spec.ts";
import { systemClock } from "../platform/clock.ts";
import { systemRandom } from "../platform/random.ts";
import { byPriority } from "../sets/pass.ts";
import type { OpenVolume } from "../sets/points.ts";
import { adopt, releasable, releaseByForce, releaseReplica } from "../sets/release.ts";
import { runSet } from "../sets/run.ts";
import type { Lease, Member, NewMember, SetFacts, TruthStore } from "../truth/store.ts";
import { parseExtent } from "./options.ts";
import { runText, type SetStatus, statusText, summaryOf, summaryText } from "./set-report.ts";
import { changing, print, running, type StoreOptions, withStore, withStoreOptions } from "./truth-store.ts";
import { isScsiAddress, openVolume } from "./volumes.ts";

/** `30%`: 0.3. */
export function parseShare(text: string): number {
  const match = /^(\d{1,3}(?:\.\d+)?)%$/.exec(text.trim());
  const share = match ? Number(match[1]) / 100 : Number.NaN;
  if (!(share >= 0 && share <= 1)) throw new InvalidArgumentError("a share is a percentage, such as 30%.");
  return share;
}

/** `NAME=VOLUME`. */
function parseReplica(text: string, before: readonly NamedVolume[] = []): NamedVolume[] {
  const match = /^([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)$/s.exec(text);
  if (!match || match[1] === "source")
    throw new InvalidArgumentError(
      'a replica is NAME=VOLUME, with a name of letters, digits, ".", "_" and "-" that is not "source".',
    );
  return [...before, { name: match[1]!, address: addressOf(match[2]!) }];
}

/** A path means the same file wherever the next run is started. */
const addressOf = (text: string): string => (isScsiAddress(text) ? text : resolve(text));

interface NamedVolume {
  readonly name: string;
  readonly address: string;
}

const member = (role: Member["role"], { name, address }: NamedVolume, priority: number): NewMember => ({
  name,
  address,
  role,
  priority,
  volumeUuid: undefined,
  generation: 0,
  lastResult: undefined,
  lastRunMs: undefined,
});

export function addSet(program: Command): void {
  const set = program
    .command("set")
    .summary("replication sets: one source, several replicas, and what is pending for each")
    .description(
      "Replication sets remember what their volumes should hold and what each replica lacks, so that a replica that was away gets just that.",
    )
    .addHelpText(
      "after",
      `
Examples:
  lunsync set create db --source /dev/vg0/db --replica east=iscsi://east.example/iqn.2026-11.com.example:disks/0
  lunsync set add-replica db west=iscsi://west.example/iqn.2026-11.com.example:disks/0
  lunsync set run db
  lunsync set status db --json
  lunsync set release db east

Exit status of run: 0 every replica holds the generation, 5 one is behind or offline, 2 and more trouble.`,
    );
  const command = (nameAndArguments: string, summary: string) =>
    withStoreOptions(set.command(nameAndArguments).description(summary));

  command("create <NAME>", "Makes a set. Nothing is read or written until its first run.")
    .requiredOption("--source <VOLUME>", "a path or block device of this host; it is only read")
    .requiredOption(
      "--replica <NAME=VOLUME>",
      "a replica: its name, and a path or iscsi:// URL; may be repeated",
      parseReplica,
    )
    .option("--extent <SIZE>", "bytes of an extent, a power of two (default 64K)", parseExtent)
    .option("--max-change <SHARE>", "a run that would change more, such as 30%, stops and asks", parseShare)
    .option("--adopt", adoptHelp)
    .action(create);
  const adding = command(
    "add-replica <NAME> <REPLICA>",
    "Adds a replica, NAME=VOLUME: the next run brings it all that it lacks.",
  ).option("--adopt", adoptHelp);
  adding.action(async (name: string, text: string, options: StoreOptions & { readonly adopt?: boolean }) => {
    const [replica] = parseReplica(text);
    if (options.adopt) await adopt(replica!.address, openMember);
    await changing(name, options, async (store, lease) => {
      const { members } = await store.set(name);
      checkNames([...members, replica!]);
      const priority = Math.max(...members.map((each) => each.priority)) + 1;
      const id = await store.addMember(lease, member("replica", replica!, priority));
      print(options, { set: name, added: replica!.name, id }, `"${replica!.name}" was added to "${name}"\n`);
    });
  });
  command(
    "remove-replica <NAME> <REPLICA>",
    "Removes a replica, and what is pending for it. Its volume stays as it is.",
  ).action(async (name: string, replica: string, options: StoreOptions) => {
    await changing(name, options, async (store, lease) => {
      const found = (await store.set(name)).members.find(
        (each) => each.role === "replica" && each.name === replica,
      );
      if (!found) throw new AgentError("not_known", `The set "${name}" has no replica "${replica}"`);
      if ((await store.set(name)).facts.handedOutTo === found.id)
        throw new AgentError(
          "usage",
          `The set "${name}" follows "${replica}" since a failover; "lunsync failback ${name}" ends that`,
        );
      // Else it would be taken for a replica of this set by whoever it is given to.
      const [released] = await giveUp(await store.set(name), lease, [found]);
      await store.removeMember(lease, found.id);
      print(options, { set: name, removed: replica, released }, `"${replica}" was removed from "${name}"\n`);
    });
  });
  command(
    "release <NAME> <REPLICA>",
    "Lets everybody write to a replica, until the next run takes it again. REPLICA is its name, or the iscsi:// URL of a volume that was one.",
  )
    .option(
      "--force",
      "also if another set, a later run or a cluster has reserved it; by its URL, no truth database is asked",
    )
    .action(release);
  command("delete <NAME>", "Forgets a set, with its truth and tables. Volumes stay as they are.").action(
    async (name: string, options: StoreOptions) => {
      await changing(name, options, async (store, lease) => {
        const set = await store.set(name);
        await giveUp(set, lease, set.members);
        await store.removeSet(lease);
      });
      print(options, { deleted: name }, `"${name}" was deleted\n`);
    },
  );
  for (const [verb, paused] of [
    ["pause", true],
    ["resume", false],
  ] as const) {
    command(`${verb} <NAME>`, paused ? "Keeps a set from being run." : "Lets a set be run again.").action(
      async (name: string, options: StoreOptions) => {
        await changing(name, options, (store, lease) => store.write(lease, (t) => t.updateSet({ paused })));
        print(options, { set: name, paused }, `"${name}" ${paused ? "is paused" : "may be run"}\n`);
      },
    );
  }
  command(
    "priorities <NAME> <REPLICA...>",
    "Puts replicas in an order, and `source` among them if it is not to be the first: whose changes win by priority.",
  ).action(priorities);
  command("run <NAME>", "Brings every replica that can be reached to what the source holds.")
    .option("--max-change <SHARE>", "for this run instead of the set's own", parseShare)
    .option(
      "--full",
      "look at everything, not only at what catalogues know to have changed since the last run",
    )
    .action(run);
  command("status [NAME]", "Says what each replica holds, and what is pending for it.").action(status);
  command("list", "Names the sets, and says how many of their replicas are behind.").action(list);
}

const openMember: OpenVolume = (address, writable) => openVolume(address, { writable });

/** Replicas are that no more, as far as they can be reached; whether that worked, for each. */
async function giveUp(
  { facts }: { readonly facts: SetFacts },
  lease: Lease,
  members: readonly Member[],
): Promise<boolean[]> {
  const given = members.filter(
    ({ role, id, split, address }) =>
      // Who was handed out, or left, by a failover has been given up then.
      role === "replica" && id !== facts.handedOutTo && !split && isScsiAddress(address),
  );
  return Promise.all(
    given.map((each) =>
      releaseReplica(each, { facts, lease, open: openMember, disowns: true }).catch((error: unknown) => {
        process.stderr.write(
          `Warning: the host of "${each.name}" still takes it for a replica of "${facts.name}", and may refuse the writes of ` +
            `everybody else: ${messageOf(error)}. When it can be reached: lunsync set release ${facts.name} ${each.address} --force\n`,
        );
        return false;
      }),
    ),
  );
}

async function release(
  name: string,
  replica: string,
  options: StoreOptions & { readonly force?: boolean },
): Promise<void> {
  const force = options.force ?? false;
  const open = openMember;
  let released = false;
  // Whoever needs force may have lost the set.
  if (force && isScsiAddress(replica)) released = await releaseByForce(replica, open);
  else
    await changing(name, options, async (store, lease) => {
      const { facts, members } = await store.set(name);
      const found = releasable(facts, members, replica, isScsiAddress);
      released = await releaseReplica(found, { facts, lease, open, force });
    });
  print(
    options,
    { set: name, replica, released },
    released
      ? `"${replica}" takes writes of everybody until the next run of "${name}"\n`
      : `"${replica}" has no persistent reservations: nobody had reserved it\n`,
  );
}

/** @throws AgentError `usage` for two of one name or address */
function checkNames(members: readonly NamedVolume[]): void {
  for (const key of ["name", "address"] as const) {
    const seen = new Set<string>();
    for (const each of members) {
      if (seen.has(each[key])) throw new AgentError("usage", `"${each[key]}" is in the set twice`);
      seen.add(each[key]);
    }
  }
}

const adoptHelp = "also volumes that are replicas of another set: they are that no more";

interface CreateOptions extends StoreOptions {
  readonly adopt?: boolean;
  readonly source: string;
  readonly replica: readonly NamedVolume[];
  readonly extent?: number;
  readonly maxChange?: number;
}

async function create(name: string, options: CreateOptions): Promise<void> {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name))
    throw new AgentError(
      "usage",
      `"${name}" is no name of a set: letters, digits, ".", "_" and "-", 64 at most`,
    );
  const source = { name: "source", address: addressOf(options.source) };
  checkNames([source, ...options.replica]);
  const members = [
    member("source", source, 0),
    ...options.replica.map((each, i) => member("replica", each, i + 1)),
  ];
  if (options.adopt) for (const { address } of options.replica) await adopt(address, openMember);
  await withStore(options, (store) =>
    store.createSet(
      {
        name,
        uuid: systemRandom.bytes(16).toString("hex"),
        extentBytes: options.extent ?? 65_536,
        blockBytes: 0,
        digest: parseDigestSpec(defaultDigest).text,
        maxChange: options.maxChange,
        createdMs: systemClock.nowMs(),
      },
      members,
    ),
  );
  print(
    options,
    { created: name, replicas: options.replica },
    `"${name}" was made; "lunsync set run ${name}" runs it\n`,
  );
}

async function priorities(name: string, order: readonly string[], options: StoreOptions): Promise<void> {
  await changing(name, options, async (store, lease) => {
    const { members } = await store.set(name);
    const named = order.map((each) => {
      const found = members.find((member) => member.name === each);
      if (!found) throw new AgentError("not_known", `The set "${name}" has no "${each}"`);
      return found;
    });
    // The source stands first, unless it is named elsewhere.
    const source = members.filter((each) => each.role === "source" && !named.includes(each));
    const inOrder = [...new Set([...source, ...named, ...byPriority(members)])];
    await store.write(lease, async (transaction) => {
      for (const [i, { id }] of inOrder.entries()) await transaction.updateMember(id, { priority: i });
    });
    const names = inOrder.filter((each) => !source.includes(each)).map((each) => each.name);
    print(options, { set: name, priorities: names }, `${names.join("\n")}\n`);
  });
}

async function run(
  name: string,
  options: StoreOptions & { readonly maxChange?: number; readonly full?: boolean },
): Promise<void> {
  const result = await withStore(options, (store) =>
    runSet(name, {
      ...running(store, "the next run goes on there"),
      maxChange: options.maxChange,
      full: options.full ?? false,
    }),
  );
  print(options, result, runText(result));
  const isDone = result.unreadable === 0 && result.replicas.every(({ state }) => state === "in step");
  process.exitCode = isDone ? 0 : exitStatus.incomplete;
}

async function status(name: string | undefined, options: StoreOptions): Promise<void> {
  const all = await statusOfAll(name, options);
  print(options, { sets: all }, all.map((each) => statusText(each, systemClock.nowMs())).join("\n"));
}

async function list(options: StoreOptions): Promise<void> {
  const sets = (await statusOfAll(undefined, options)).map(summaryOf);
  print(options, { sets }, sets.map(summaryText).join(""));
}

function statusOfAll(name: string | undefined, options: StoreOptions): Promise<SetStatus[]> {
  return withStore(options, async (store) => {
    const names = name === undefined ? (await store.sets()).map((facts) => facts.name) : [name];
    return Promise.all(names.map((each) => statusOf(store, each)));
  });
}

async function statusOf(store: TruthStore, name: string): Promise<SetStatus> {
  const { facts, members } = await store.set(name);
  const pending = await store.pendingCounts(name);
  const holder = await store.holder(name);
  return { facts, holder, members: members.map((each) => ({ ...each, pending: pending.get(each.id) ?? 0 })) };
}
