// Image files of a choice or a drop, with their names within the folder.
const ENDINGS = /\.({{ endings }})$/i;

const isImage = (file) => file.type.startsWith("image/") || ENDINGS.test(file.name);

// Returns [{file, name}] and the number of files that are left out.
function chosen(files) {
  const named = [...files].map((file) => ({file, name: file.webkitRelativePath || file.name}));
  return inFolder(named);
}

// As `predict` with a folder: names are relative to it, and what is no image is left out.
function inFolder(named) {
  const tops = new Set(named.map(({name}) => name.split("/")[0]));
  const isOne = tops.size === 1 && named.every(({name}) => name.includes("/"));
  const kept = named.filter(({file, name}) => !name.includes("/") || isImage(file));
  kept.sort((a, b) => a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  const short = ({name}) => isOne ? name.slice(name.indexOf("/") + 1) : name;
  return {
    found: kept.map((one) => ({file: one.file, name: short(one)})),
    skipped: named.length - kept.length,
  };
}

// A dropped folder is read to its end; its entries must be taken before anything is awaited.
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const named = [];
  for (const entry of entries) await collect(entry, named);
  return inFolder(named);
}

async function collect(entry, named) {
  if (entry.isFile) {
    const file = await new Promise((done) => entry.file(done, () => done(null)));
    if (file) named.push({file, name: entry.fullPath.replace(/^\//, "")});
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done) => reader.readEntries(done, () => done([])));
    if (!some.length) return;
    for (const one of some) await collect(one, named);
  }
}
