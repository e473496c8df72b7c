// The shape of a digest tree: how many nodes each level has, and where its pages lie in the file.
//
// Level 0 has the extents; a node of level n + 1 stands for up to `fanOut` nodes of level n; the last level is the root
// alone. A page holds the identifiers of `fanOut` neighbours: the children of one node.
//
// Guarantees: a page lies where it lies whatever the size of the volume, so that one that grows needs nothing moved. Each
// comes before the pages below it (pre-order), with room at the beginning for the levels that a tree may have one day.
export const fanOut = 64;
/** Nodes of this level have no parents: a tree has 64 to this power extents at most. */
const levelMax = 8;

/** The parent of a node, and the region of an extent. */
export const regionOf = (node: number): number => Math.floor(node / fanOut);

/** Two copies of the header, 4096 bytes each, come before the pages. */
export const headerBytes = 4096;
export const pageHeaderBytes = 32;

export class TreeShape {
  /** Nodes of each level; the last has one. */
  readonly nodes: readonly number[];
  readonly identifierBytes: number;
  readonly pageBytes: number;
  readonly fileBytes: number;

  constructor(extents: number, identifierBytes: number) {
    const nodes = [extents];
    // Also a volume of one extent has a root above it: level 0 is never the last one.
    do nodes.push(Math.ceil(nodes.at(-1)! / fanOut));
    while (nodes.at(-1)! > 1);
    this.nodes = nodes;
    this.identifierBytes = identifierBytes;
    this.pageBytes = pageHeaderBytes + fanOut * identifierBytes;
    this.fileBytes = this.offsetOf(0, this.pages(0) - 1) + this.pageBytes;
  }

  get rootLevel(): number {
    return this.nodes.length - 1;
  }

  pages(level: number): number {
    return Math.ceil(this.nodes[level]! / fanOut);
  }

  /** Nodes whose identifiers a page holds: `fanOut`, or fewer in the last page of a level. */
  nodesIn(level: number, page: number): number {
    return Math.min(fanOut, this.nodes[level]! - page * fanOut);
  }

  /** Bytes from the beginning of the file. */
  offsetOf(level: number, page: number): number {
    // The first page of level 0 below it; pages that begin before, and those above it that begin with it, come first.
    const leaf = page * fanOut ** level;
    let before = 0;
    for (let each = 0; each <= levelMax; each++)
      before += Math.floor(leaf / fanOut ** each) + (each > level ? 1 : 0);
    return 2 * headerBytes + before * this.pageBytes;
  }

  /** Extents below one node of a level. */
  extentsBelow(level: number): number {
    return fanOut ** level;
  }
}
