/**
 * Reflect metadata, as far as tsyringe calls it: `@peculiar/x509` finds its parts with tsyringe, which does not load
 * unless `Reflect` can keep metadata of classes. This file must be imported before `@peculiar/x509`.
 */
const metadataOf = new WeakMap<object, Map<unknown, unknown>>();

const get = (key: unknown, target: object) => metadataOf.get(target)?.get(key);

const functions = {
  getMetadata: get,
  getOwnMetadata: get,
  defineMetadata(key: unknown, value: unknown, target: object): void {
    const known = metadataOf.get(target) ?? new Map<unknown, unknown>();
    metadataOf.set(target, known.set(key, value));
  },
};

if (!("getMetadata" in Reflect)) Object.assign(Reflect, functions);

export {};
