/** The files that tell programs in a sandbox whose it is (reference 2.5), in a file system in memory. */

/**
 * Who a machine is as long as it is nobody's: in a template's snapshot, and in the warm pool. As long as a sandbox's id, so
 * that the guest writes its files over in place, which is less than half the work of making new ones.
 */
export const placeholderId = "nobody".padEnd(21, "0");

const file = (name: string, content: string) => ({ path: `/run/e2b/${name}`, content, mode: 0o644 });

/** What no two sandboxes have in common. */
export const sandboxFiles = (sandboxId: string) => [file(".E2B_SANDBOX_ID", sandboxId)];

/** What all sandboxes of a template have in common. */
export const templateFiles = (templateId: string) => [
  file(".E2B_SANDBOX", "true"),
  file(".E2B_TEMPLATE_ID", templateId),
];
