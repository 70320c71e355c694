// What a new request says before anybody has said anything: the least that the service takes, and images to look at.

const SMALL = 64; // pixels of a side, up to which the presets for small images are meant
const LISTS = { first: [0, 1, 2, 3], second: [4, 5, 6, 7] };
const SEVERAL = [0, 1, 2, 3, 4, 5, 6, 7];

export class Usual {
  constructor(schemas, registries) {
    this.schemas = schemas;
    this.registries = registries;
  }

  /** A request of a kind. What was said before, for whatever kind, stays where it fits. */
  request({ schema }, before) {
    const { properties, required = [] } = schema;
    const fits = ([name, value]) => properties[name] && this.schemas.errors(properties[name], value).length === 0;
    const kept = Object.fromEntries(Object.entries(before).filter(fits));
    const model = this.card("models", kept.model) ?? this.robust();
    const request = {};
    for (const name of Object.keys(properties)) {
      if (name in kept) request[name] = kept[name];
      else if (required.includes(name)) request[name] = this.value(name, properties[name], model, before);
    }
    const { image_size: side } = this.card("datasets", request.dataset) ?? {};
    request.preset ??= this.preset(properties.preset, properties.model ? model?.input_size : side);
    if (properties.coordinates && !["coordinates", "random_coordinates", "combinations"].some((name) => request[name]))
      request.coordinates = [0, 1, 2, 3];
    return Object.fromEntries(Object.entries(request).filter(([, value]) => value !== undefined));
  }

  /** What a request that is gone on from gets beside, by its name in the address. */
  more(name, { model }) {
    if (name !== "top_images") return {};
    return { top_images: { dataset: this.preferred(this.card("models", model))?.name } };
  }

  card = (registry, name) => this.registries[registry].find((card) => card.name === name);

  /** A network that was trained against an attack and has a judge, or else any. */
  robust() {
    const { models } = this.registries;
    return models.find(({ epsilon, judge }) => epsilon > 0 && judge) ?? models[0];
  }

  /** A data set whose images need not be resized, or else any. */
  preferred(model) {
    const sets = this.registries.datasets;
    return sets.find(({ image_size: side }) => side === model?.input_size) ?? sets[0];
  }

  value(name, schema, model, before) {
    if (schema.const !== undefined) return schema.const;
    // Targets of one kind are the images of another.
    const images = before.targets ?? before.images ?? before.first;
    if (this.schemas.isSource(schema)) {
      const fits = images?.source && !LISTS[name] && this.schemas.errors(schema, images).length === 0;
      return fits ? images : this.source("dataset", model, LISTS[name]);
    }
    const names = { model: model?.name, dataset: this.preferred(model)?.name };
    return names[name] ?? this.registries.architectures[0]?.name;
  }

  source(source, model, indices = SEVERAL) {
    const { name, size = 0 } = this.preferred(model) ?? {};
    if (source === "dataset") return { source, dataset: name, indices: indices.filter((index) => index < size) };
    if (source === "mixed") return { source, parts: [this.source("dataset", model)] };
    if (source === "patterns") return { source, patterns: ["stripes", "checkerboard", "circles", "text"] };
    return { source };
  }

  preset(schema, side) {
    const { enum: values = [], default: usual } = this.schemas.plain(schema ?? {});
    return side <= SMALL && values.includes("cifar") ? "cifar" : usual;
  }
}
